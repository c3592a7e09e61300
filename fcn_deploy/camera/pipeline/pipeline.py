"""The pipeline: capture, inference and delivery, each in a thread of its own."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

import numpy as np

from fcn_deploy.camera.frames import CameraFrame, Delivery
from fcn_deploy.camera.pipeline.error_policy import ErrorPolicy
from fcn_deploy.camera.pipeline.queues import FrameQueues, PendingResult
from fcn_deploy.camera.pipeline.smoothing import LabelSmoother
from fcn_deploy.camera.pipeline.statistics import CameraStatistics, Meter, Statistics
from fcn_deploy.camera.sinks.base import StopPipeline
from fcn_deploy.camera.sources.base import Source
from fcn_deploy.camera.sources.opening import open_source
from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.base import Segmentation
from fcn_deploy.runtimes.segmenter import IN_FLIGHT, Segmenter, answer_of

_FILE_FRAMES = 4
"""Frames of a file that are decoded ahead."""

_CAPTURE_END_TIMEOUT = 2.0
"""Seconds that the capturing threads may take to end. One that still hangs in a driver after that is
abandoned, and ends with the process."""

_SIGNAL_POLL_INTERVAL = 0.2
"""Seconds within which a signal that was missed is handled."""


@final
class Pipeline:
    """Runs the frames of one or several cameras through a model and into sinks. It runs once.

    While the model is busy, a live camera's waiting frame is replaced by a newer one; frames of files are
    never dropped. However the run ends, the frames that are with the model are delivered and the sinks are
    closed, so videos are complete.

    Args:
        sources: what :func:`open_source` opens, or a :class:`Source`; a list is several cameras, whose
            frames of one size share an inference as far as the artefact takes several.
        segmenter: an opened artefact; it stays open.
        sinks: called with each :class:`Delivery` in order; those with ``close()`` are closed at the end.
        on_error: ``stop``: the first error of a source, the model or a sink ends the run and is raised;
            frames that were captured before a source failed are still delivered.
            ``continue``: a frame that fails is counted and skipped, a camera that is lost leaves the
            others running; fifty failed frames in a row, or no camera left, still end the run.
        smoothing: a pixel's label changes once it had the new one in so many frames in a row
            (2 to 255); confidence and logits are not smoothed. None leaves labels as they are.
        max_frames: end after so many deliveries, of all cameras together; None sets no limit.

    Raises:
        UsageError: there is no source, one gives another colour order than the model expects, or an
            argument is out of range.
    """

    def __init__(
        self,
        sources: Source | str | int | Path | Sequence[Source | str | int | Path],
        segmenter: Segmenter,
        sinks: Sequence[Any] = (),
        *,
        on_error: str = "stop",
        smoothing: int | None = None,
        max_frames: int | None = None,
    ) -> None:
        several = [sources] if isinstance(sources, (Source, str, int, Path)) else list(sources)
        order = segmenter.spec.color_order
        self._errors = ErrorPolicy(on_error)
        if max_frames is not None and max_frames < 1:
            raise UsageError(f"max_frames must be at least 1, not {max_frames}")
        self._max_frames = max_frames
        self._smoothers = [LabelSmoother(smoothing) for _ in several] if smoothing is not None else None
        self._sources = [s if isinstance(s, Source) else open_source(s, order) for s in several]
        _check(self._sources, order)
        self._segmenter = segmenter
        self._sinks = list(sinks)
        self._active_sinks = list(sinks)
        """Those that have not raised StopPipeline."""
        live = [source.live for source in self._sources]
        # A live frame that waits in the model's queue cannot be replaced by a newer one.
        self._queues = FrameQueues(live, capacity=_FILE_FRAMES, depth=1 if any(live) else IN_FLIGHT)
        self._meter = Meter()
        self._threads: list[threading.Thread] = []
        self._run_once = threading.Lock()
        self._delivered = 0
        self._last_ready_at = 0.0
        """When the model's last result was ready."""

    def run(self) -> Statistics:
        """Run until the sources end, :meth:`stop`, or an error.

        Sinks are called in a thread of the pipeline's own, unless one of them must be called in the
        caller's, as a window must. Ctrl-C stops the run as :meth:`stop` does and is raised when the run
        has ended; a second Ctrl-C does not wait for that.

        Raises:
            PipelineError: a sink failed, or a stream was lost for good.
            FcnDeployError: a source or the model failed; the frame or the camera is named.
        """
        if any(getattr(sink, "in_caller_thread", False) for sink in self._sinks):
            for _ in self:
                pass
            return self.statistics()
        begun, done = threading.Event(), threading.Event()
        raised: list[BaseException] = []

        def deliver() -> None:
            begun.set()
            try:
                for _ in self:
                    pass
            except BaseException as exc:
                raised.append(exc)
            finally:
                done.set()

        try:
            _thread(deliver)
            # With a timeout: CPython may miss a signal that comes just before a wait without one begins.
            while not done.wait(_SIGNAL_POLL_INTERVAL):
                pass
        except BaseException:
            self.stop()
            if begun.wait(1):  # the interrupt may have come before the thread was started
                done.wait()
            raise
        if raised:
            raise raised[0]
        return self.statistics()

    def __iter__(self) -> Generator[Delivery, None, None]:
        """Run, delivering in the caller's thread; leaving the loop stops the pipeline.

        Yields:
            Each delivery, after the sinks had it.
        """
        if not self._run_once.acquire(blocking=False):
            raise UsageError("a pipeline runs once; make another one")
        return self._running()

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """As :meth:`__iter__`, for asyncio: a thread does the waiting, so the event loop stays free."""
        import asyncio  # takes longer to import than the rest of this package

        loop = asyncio.get_running_loop()
        deliveries = iter(self)
        thread = ThreadPoolExecutor(1, thread_name_prefix="fcn-deploy-asyncio")
        try:
            while (delivery := await loop.run_in_executor(thread, next, deliveries, None)) is not None:
                yield delivery
        finally:
            self.stop()
            # Runs after a `next` that may still be running, which stop() makes end.
            closed = loop.run_in_executor(thread, deliveries.close)
            thread.shutdown(wait=False)
            await closed

    def stop(self) -> None:
        """End the run from any thread; frames that are with the model are still delivered.

        Do not call it in a signal handler, which may have interrupted a holder of the lock that this
        takes: let the handler start a thread that calls it.
        """
        self._queues.stop()

    def statistics(self) -> Statistics:
        """Counts and times until now; may be called from any thread."""
        cameras = tuple(
            CameraStatistics(
                source.name,
                source.state.phase,
                source.state.reconnects,
                source.state.message,
                counts.captured,
                counts.dropped,
                counts.failed,
                counts.delivered,
            )
            for source, counts in zip(self._sources, self._queues.counts(), strict=True)
        )
        return self._meter.read(cameras)

    def _running(self) -> Generator[Delivery, None, None]:
        self._meter.begun = time.monotonic()
        self._start()
        try:
            while not self._has_enough() and (pending := self._queues.oldest()) is not None:
                yield from self._deliveries(pending)
        except BaseException:
            self._finish()
            self._errors.log_error()
            raise
        self._finish()
        self._errors.raise_error(len(self._sources))

    def _start(self) -> None:
        for index, source in enumerate(self._sources):
            self._threads.append(_thread(self._capture, index, source))
        self._threads.append(_thread(self._infer))

    def _capture(self, camera: int, source: Source) -> None:
        try:
            with ExitStack() as opened:
                frames = source.frames(self._queues.stopping)
                if close := getattr(frames, "close", None):
                    opened.callback(close)
                asked = time.monotonic()
                for frame in frames:
                    self._meter.stage("capture", time.monotonic() - asked)
                    own = CameraFrame(frame.image, frame.name, frame.index, frame.captured, camera)
                    if not self._queues.put(own):
                        return
                    asked = time.monotonic()
        except Exception as exc:
            source.state.message = str(exc)
            if self._errors.camera_lost(exc, source.name):
                self._queues.stop_capture()  # the frames captured before are still delivered
        finally:
            self._queues.end_camera(camera)

    def _infer(self) -> None:
        try:
            while (frames := self._queues.take(self._segmenter.max_batch)) is not None:
                self._submit(frames)
        except Exception as exc:
            self._errors.fatal(exc, "the model failed")
            self.stop()

    def _submit(self, frames: list[CameraFrame]) -> None:
        try:
            images = frames[0].image[None] if len(frames) == 1 else np.stack([f.image for f in frames])
            pending = PendingResult(frames, self._segmenter.start(images), time.monotonic())
        except Exception as exc:
            self._queues.submit_failed(frames)
            if self._errors.frame_failed(exc, self._named(frames)):
                self.stop()
            return
        self._queues.submitted(pending)

    def _deliveries(self, pending: PendingResult) -> Iterator[Delivery]:
        try:
            result = answer_of(pending.future)
        except Exception as exc:
            self._queues.collected()
            for frame in pending.frames:
                self._queues.failed(frame)
            if self._errors.frame_failed(exc, self._named(pending.frames)):
                self.stop()
            return
        self._queues.collected()
        self._time(pending)
        rest = list(pending.frames)
        try:
            for index, frame in enumerate(pending.frames):
                if self._has_enough():
                    return
                own = self._smoothed(result[index], frame.camera)
                delivery = Delivery(frame, own, time.monotonic() - frame.captured)
                delivered = self._deliver(delivery)
                rest.pop(0)
                if delivered:
                    yield delivery
        finally:
            for frame in rest:
                self._queues.dropped(frame)

    def _time(self, pending: PendingResult) -> None:
        """Split the age of a result into stages: its inference begins when the one before it has ended."""
        now = time.monotonic()
        ready = pending.ready_at or now
        begun = min(max(pending.submitted_at, self._last_ready_at), ready)
        self._last_ready_at = ready
        self._meter.inference(len(pending.frames))
        for frame in pending.frames:
            self._meter.stage("wait", begun - frame.captured)
        self._meter.stage("infer", ready - begun)
        self._meter.stage("collect", now - ready)

    def _smoothed(self, result: Segmentation, camera: int) -> Segmentation:
        if self._smoothers is None:
            return result
        return dataclasses.replace(result, labels=self._smoothers[camera](result.labels[0])[None])

    def _deliver(self, delivery: Delivery) -> bool:
        """Call every sink, also after one has failed. Returns whether none failed."""
        begun = time.monotonic()
        error: Exception | None = None
        for sink in tuple(self._active_sinks):
            try:
                sink(delivery)
            except StopPipeline:
                self._active_sinks.remove(sink)
                self.stop()
            except Exception as exc:
                error = error or exc
        if error is not None:
            self._queues.failed(delivery.frame)
            if self._errors.frame_failed(error, f"a sink failed on {self._named([delivery.frame])}"):
                self.stop()
            return False
        self._meter.stage("deliver", time.monotonic() - begun)
        self._meter.delivered(delivery.age)
        self._queues.delivered(delivery.frame)
        self._errors.frame_delivered()
        self._delivered += 1
        return True

    def _named(self, frames: list[CameraFrame]) -> str:
        """For messages: the frames of one inference."""
        if len(self._sources) == 1:
            return f"frame {frames[0].name}"
        return " and ".join(f"frame {frame.name} of camera {frame.camera}" for frame in frames)

    def _has_enough(self) -> bool:
        return self._max_frames is not None and self._delivered >= self._max_frames

    def _finish(self) -> None:
        self.stop()
        self._discard_results()
        for sink in self._sinks:
            if close := getattr(sink, "close", None):
                try:
                    close()
                except Exception as exc:
                    self._errors.fatal(exc, "a sink could not be closed")
        deadline = time.monotonic() + _CAPTURE_END_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._discard_results()
        self._meter.ended = time.monotonic()

    def _discard_results(self) -> None:
        """Cancel the results that were not collected; waits for the inference that is running."""
        # A cancelled future may never be marked as done, so those are not waited for.
        wait([each.future for each in self._queues.discard() if not each.future.cancel()])


def _thread(target: Callable[..., None], *args: object) -> threading.Thread:
    # A daemon, because one that hangs in a camera's driver must not keep the process alive.
    thread = threading.Thread(target=target, args=args, daemon=True, name="fcn-deploy-camera")
    thread.start()
    return thread


def _check(sources: list[Source], order: str) -> None:
    if not sources:
        raise UsageError("a pipeline needs a source; give a file, a camera or a URL")
    for source in sources:
        if source.color_order != order:
            raise UsageError(
                f"{source.name} gives {source.color_order} frames and the model expects {order}; "
                f"open it with color_order={order!r}"
            )
