"""Capture, infer, deliver: each in a thread of its own, the freshest frame first."""

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
from fcn_deploy.camera.pipeline.faults import Faults
from fcn_deploy.camera.pipeline.queues import FrameQueues, Pending
from fcn_deploy.camera.pipeline.smoothing import Hold
from fcn_deploy.camera.pipeline.statistics import CameraStatistics, Meter, Statistics
from fcn_deploy.camera.sinks.base import StopPipeline
from fcn_deploy.camera.sources.base import Source
from fcn_deploy.camera.sources.opening import open_source
from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.base import Segmentation
from fcn_deploy.runtimes.segmenter import IN_FLIGHT, Segmenter, answer_of

_FILE_FRAMES = 4
"""Frames of a file that are decoded ahead."""


_PATIENCE = 2.0
"""Seconds that sources may take to let go; a thread that still hangs in a driver after that is left
behind, and ends with the process."""


_LOOK = 0.2
"""Seconds after which a signal that was missed is seen."""


@final
class Pipeline:
    """Runs the frames of one or several cameras through a model and into sinks. It runs once.

    A live camera's frame gives way to a newer one while the model is busy; files lose nothing. However
    the run ends, what the model has answered by then is delivered and the sinks are closed, so videos
    are whole.

    Args:
        sources: what :func:`open_source` opens, or a :class:`Source`; a list is several cameras, whose
            frames of one size share an inference as far as the artefact takes several.
        segmenter: an opened artefact; it stays open.
        sinks: called with each :class:`Delivery` in order; those with ``close()`` are closed at the end.
        on_error: ``stop``: the first error of a source, the model or a sink ends the run and is raised;
            frames that were captured before a source failed are still delivered.
            ``continue``: a frame that fails is counted and given up, a camera that is lost leaves the
            others running; fifty failed frames in a row, or no camera left, still end the run.
        smoothing: a pixel changes its label once it had the new one in so many frames in a row
            (2 to 255); confidence and logits stay the model's own. None leaves labels as they are.
        max_frames: end after so many deliveries, of all cameras together; None does not.

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
        given = [sources] if isinstance(sources, (Source, str, int, Path)) else list(sources)
        order = segmenter.spec.color_order
        self._faults = Faults(on_error)
        if max_frames is not None and max_frames < 1:
            raise UsageError(f"max_frames must be at least 1, not {max_frames}")
        self._most = max_frames
        self._holds = [Hold(smoothing) for _ in given] if smoothing is not None else None
        self._sources = [s if isinstance(s, Source) else open_source(s, order) for s in given]
        _check(self._sources, order)
        self._segmenter = segmenter
        self._sinks = list(sinks)
        self._taking = list(sinks)
        """Those that did not say that they want no more."""
        live = [source.live for source in self._sources]
        # A live frame that waits behind another in the model only gets older.
        self._exchange = FrameQueues(live, capacity=_FILE_FRAMES, depth=1 if any(live) else IN_FLIGHT)
        self._meter = Meter()
        self._threads: list[threading.Thread] = []
        self._claimed = threading.Lock()
        self._delivered = 0
        self._ready = 0.0
        """When the model had made its last answer."""

    def run(self) -> Statistics:
        """Run until the sources end, :meth:`stop`, or an error.

        Sinks are called in a thread of the pipeline's own, unless one of them must be called in the
        caller's, as a window must. Ctrl-C stops the run as :meth:`stop` does and is raised once all is
        finished; a second one does not wait for it.

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
            # Not without a time-out: CPython may miss a signal that comes just before such a wait begins.
            while not done.wait(_LOOK):
                pass
        except BaseException:
            self.stop()
            if begun.wait(1):  # it may have come before there was a thread to wait for
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
        if not self._claimed.acquire(blocking=False):
            raise UsageError("a pipeline runs once; make another one")
        return self._running()

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """As iterating, for asyncio: waiting is done in a thread, so the event loop stays free."""
        import asyncio  # takes longer to import than the rest of this room

        loop = asyncio.get_running_loop()
        deliveries = iter(self)
        thread = ThreadPoolExecutor(1, thread_name_prefix="fcn-deploy-asyncio")
        try:
            while (delivery := await loop.run_in_executor(thread, next, deliveries, None)) is not None:
                yield delivery
        finally:
            self.stop()
            # Queued behind a `next` that may be running, which stop() has ended.
            closed = loop.run_in_executor(thread, deliveries.close)
            thread.shutdown(wait=False)
            await closed

    def stop(self) -> None:
        """End the run from any thread; what the model has is still delivered.

        Not from a signal's handler, which may have interrupted a holder of the lock that this takes:
        let the handler start a thread that does it.
        """
        self._exchange.stop()

    def statistics(self) -> Statistics:
        """What was counted and timed until now; from any thread."""
        cameras = tuple(
            CameraStatistics(
                source.name,
                source.state.phase,
                source.state.reconnects,
                source.state.message,
                box.captured,
                box.dropped,
                box.failed,
                box.delivered,
            )
            for source, box in zip(self._sources, self._exchange.counts(), strict=True)
        )
        return self._meter.read(cameras)

    def _running(self) -> Generator[Delivery, None, None]:
        self._meter.begun = time.monotonic()
        self._start()
        try:
            while not self._enough() and (pending := self._exchange.oldest()) is not None:
                yield from self._deliveries(pending)
        except BaseException:
            self._finish()
            self._faults.tell()
            raise
        self._finish()
        self._faults.raise_error(len(self._sources))

    def _start(self) -> None:
        for index, source in enumerate(self._sources):
            self._threads.append(_thread(self._capture, index, source))
        self._threads.append(_thread(self._infer))

    def _capture(self, camera: int, source: Source) -> None:
        try:
            with ExitStack() as opened:
                frames = source.frames(self._exchange.stopping)
                if close := getattr(frames, "close", None):
                    opened.callback(close)
                asked = time.monotonic()
                for frame in frames:
                    self._meter.stage("capture", time.monotonic() - asked)
                    own = CameraFrame(frame.image, frame.name, frame.index, frame.captured, camera)
                    if not self._exchange.put(own):
                        return
                    asked = time.monotonic()
        except Exception as exc:
            source.state.message = str(exc)
            if self._faults.camera_lost(exc, source.name):
                self._exchange.drain()  # the frames before it are good
        finally:
            self._exchange.end(camera)

    def _infer(self) -> None:
        try:
            while (frames := self._exchange.take(self._segmenter.max_batch)) is not None:
                self._submit(frames)
        except Exception as exc:
            self._faults.fatal(exc, "the model failed")
            self.stop()

    def _submit(self, frames: list[CameraFrame]) -> None:
        try:
            images = frames[0].image[None] if len(frames) == 1 else np.stack([f.image for f in frames])
            pending = Pending(frames, self._segmenter.start(images), time.monotonic())
        except Exception as exc:
            self._exchange.lost(frames)
            if self._faults.frame_failed(exc, self._named(frames)):
                self.stop()
            return
        self._exchange.submitted(pending)

    def _deliveries(self, pending: Pending) -> Iterator[Delivery]:
        try:
            answer = answer_of(pending.answer)
        except Exception as exc:
            self._exchange.collected()
            for frame in pending.frames:
                self._exchange.failed(frame)
            if self._faults.frame_failed(exc, self._named(pending.frames)):
                self.stop()
            return
        self._exchange.collected()
        self._time(pending)
        rest = list(pending.frames)
        try:
            for index, frame in enumerate(pending.frames):
                if self._enough():
                    return
                own = self._smoothed(answer[index], frame.camera)
                delivery = Delivery(frame, own, time.monotonic() - frame.captured)
                taken = self._deliver(delivery)
                rest.pop(0)
                if taken:
                    yield delivery
        finally:
            for frame in rest:
                self._exchange.given_up(frame)

    def _time(self, pending: Pending) -> None:
        """Split the age of an answer into stages: the model begins when its last answer is made."""
        now = time.monotonic()
        ready = pending.ready or now
        begun = min(max(pending.submitted, self._ready), ready)
        self._ready = ready
        self._meter.answered(len(pending.frames))
        for frame in pending.frames:
            self._meter.stage("wait", begun - frame.captured)
        self._meter.stage("infer", ready - begun)
        self._meter.stage("collect", now - ready)

    def _smoothed(self, answer: Segmentation, camera: int) -> Segmentation:
        if self._holds is None:
            return answer
        return dataclasses.replace(answer, labels=self._holds[camera](answer.labels[0])[None])

    def _deliver(self, delivery: Delivery) -> bool:
        """Give it to every sink, whatever one of them does. Returns whether all of them took it."""
        begun = time.monotonic()
        error: Exception | None = None
        for sink in tuple(self._taking):
            try:
                sink(delivery)
            except StopPipeline:
                self._taking.remove(sink)
                self.stop()
            except Exception as exc:
                error = error or exc
        if error is not None:
            self._exchange.failed(delivery.frame)
            if self._faults.frame_failed(error, f"a sink failed on {self._named([delivery.frame])}"):
                self.stop()
            return False
        self._meter.stage("deliver", time.monotonic() - begun)
        self._meter.delivered(delivery.age)
        self._exchange.delivered(delivery.frame)
        self._faults.frame_done()
        self._delivered += 1
        return True

    def _named(self, frames: list[CameraFrame]) -> str:
        """For messages: the frames of one inference."""
        if len(self._sources) == 1:
            return f"frame {frames[0].name}"
        return " and ".join(f"frame {frame.name} of camera {frame.camera}" for frame in frames)

    def _enough(self) -> bool:
        return self._most is not None and self._delivered >= self._most

    def _finish(self) -> None:
        self.stop()
        self._give_up_answers()
        for sink in self._sinks:
            if close := getattr(sink, "close", None):
                try:
                    close()
                except Exception as exc:
                    self._faults.fatal(exc, "a sink could not be closed")
        until = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._give_up_answers()
        self._meter.ended = time.monotonic()

    def _give_up_answers(self) -> None:
        """What was not collected; waits for the one that is being made."""
        # One that is cancelled may never be marked as done.
        wait([each.answer for each in self._exchange.discard() if not each.answer.cancel()])


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
