"""Capture, infer, deliver: each in a thread of its own, the freshest frame first."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path
from typing import Any, final

import numpy as np

from fcn_deploy.camera.exchange import Exchange, Pending
from fcn_deploy.camera.frames import CameraFrame, Delivery
from fcn_deploy.camera.sinks import StopPipeline
from fcn_deploy.camera.source import Source
from fcn_deploy.camera.sources import open_source
from fcn_deploy.camera.statistics import CameraStatistics, Meter, Statistics
from fcn_deploy.errors import FcnDeployError, PipelineError, UsageError
from fcn_deploy.runtimes.segmenter import IN_FLIGHT, Segmenter

_LOG = logging.getLogger("fcn_deploy.camera")
_FILE_FRAMES = 4
"""Frames of a file that are decoded ahead."""
_PATIENCE = 15.0
"""Seconds that a source may take to let go; after that its thread is left behind."""


@final
class Pipeline:
    """Runs the frames of one or several cameras through a model and into sinks. It runs once.

    A live camera's frame gives way to a newer one while the model is busy; files lose nothing. The first
    error, of a source, the model or a sink, ends the run: what the model has is delivered, the sinks are
    closed, and the error is raised.

    Args:
        sources: what :func:`open_source` opens, or a :class:`Source`; a list is several cameras, whose
            frames of one size share one inference.
        segmenter: an opened artefact; it stays open.
        sinks: called with each :class:`Delivery` in order; those with ``close()`` are closed at the end.

    Raises:
        UsageError: there is no source, or one gives another colour order than the model expects.
    """

    def __init__(
        self,
        sources: Source | str | int | Path | Sequence[Source | str | int | Path],
        segmenter: Segmenter,
        sinks: Sequence[Any] = (),
    ) -> None:
        given = [sources] if isinstance(sources, (Source, str, int, Path)) else list(sources)
        order = segmenter.spec.color_order
        self._sources = [s if isinstance(s, Source) else open_source(s, order) for s in given]
        if not self._sources:
            raise UsageError("a pipeline needs a source; give a file, a camera or a URL")
        for source in self._sources:
            if source.color_order != order:
                raise UsageError(
                    f"{source.name} gives {source.color_order} frames and the model expects {order}; "
                    f"open it with color_order={order!r}"
                )
        self._segmenter = segmenter
        self._sinks = list(sinks)
        live = [source.live for source in self._sources]
        # A live frame that waits behind another in the model only gets older.
        self._exchange = Exchange(live, capacity=_FILE_FRAMES, depth=1 if any(live) else IN_FLIGHT)
        self._meter = Meter()
        self._threads: list[threading.Thread] = []
        self._error: Exception | None = None

    def run(self) -> Statistics:
        """Run until the sources end, :meth:`stop`, or an error.

        Raises:
            PipelineError: a sink failed, or a stream was lost for good.
            FcnDeployError: a source or the model failed.
        """
        for _ in self:
            pass
        return self.statistics()

    def __iter__(self) -> Iterator[Delivery]:
        """Run, delivering in the caller's thread; leaving the loop stops the pipeline.

        Yields:
            Each delivery, after the sinks had it.
        """
        if self._meter.begun is not None:
            raise UsageError("a pipeline runs once; make another one")
        self._meter.begun = time.monotonic()
        self._start()
        try:
            while (pending := self._exchange.oldest()) is not None:
                yield from self._deliveries(pending)
        finally:
            self._finish()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the run from any thread; what the model has is still delivered."""
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

    def _start(self) -> None:
        def begin(target: Callable[..., None], *args: object) -> None:
            thread = threading.Thread(target=target, args=args, daemon=True, name="fcn-deploy-camera")
            thread.start()
            self._threads.append(thread)

        for index, source in enumerate(self._sources):
            begin(self._capture, index, source)
        begin(self._infer)

    def _capture(self, camera: int, source: Source) -> None:
        try:
            with closing(source.frames(self._exchange.stopping)) as frames:  # type: ignore[type-var]
                asked = time.monotonic()
                for frame in frames:
                    self._meter.stage("capture", time.monotonic() - asked)
                    own = CameraFrame(frame.image, frame.name, frame.index, frame.captured, camera)
                    if not self._exchange.put(own):
                        return
                    asked = time.monotonic()
        except Exception as exc:
            self._fail(exc, f"{source.name} failed")
        finally:
            self._exchange.end(camera)

    def _infer(self) -> None:
        while (frames := self._exchange.take(None)) is not None:
            images = frames[0].image[None] if len(frames) == 1 else np.stack([f.image for f in frames])
            now = time.monotonic()
            try:
                pending = Pending(frames, self._segmenter.start(images), now)
            except Exception as exc:
                self._exchange.lost(frames)
                self._fail(exc, "the model failed")
                return
            pending.answer.add_done_callback(pending.mark_ready)
            for frame in frames:
                self._meter.stage("wait", now - frame.captured)
            self._exchange.submitted(pending)

    def _deliveries(self, pending: Pending) -> Iterator[Delivery]:
        try:
            answer = pending.answer.result()
        except Exception as exc:
            self._exchange.collected()
            for frame in pending.frames:
                self._exchange.failed(frame)
            self._fail(exc, f"frame {pending.frames[0].name} failed")
            return
        self._exchange.collected()
        begun = time.monotonic()
        ready = pending.ready or begun
        self._meter.answered(len(pending.frames))
        self._meter.stage("infer", ready - pending.submitted)
        self._meter.stage("collect", begun - ready)
        for index, frame in enumerate(pending.frames):
            delivery = Delivery(frame, answer[index], time.monotonic() - frame.captured)
            if self._deliver(delivery):
                yield delivery

    def _deliver(self, delivery: Delivery) -> bool:
        begun = time.monotonic()
        try:
            for sink in self._sinks:
                sink(delivery)
        except StopPipeline:
            self.stop()
        except Exception as exc:
            self._exchange.failed(delivery.frame)
            self._fail(exc, f"a sink failed on frame {delivery.frame.name}")
            return False
        self._meter.stage("deliver", time.monotonic() - begun)
        self._meter.delivered(delivery.age)
        self._exchange.delivered(delivery.frame)
        return True

    def _fail(self, error: Exception, what: str) -> None:
        """Keep the first error, and stop."""
        if self._error is None:
            if not isinstance(error, FcnDeployError):
                named = PipelineError(f"{what} ({type(error).__name__}: {error}); the pipeline was stopped")
                named.__cause__ = error
                error = named
            self._error = error
        else:
            _LOG.warning("%s (%s)", what, error)
        self.stop()

    def _finish(self) -> None:
        self.stop()
        wait([pending.answer for pending in self._exchange.discard()])
        until = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        wait([pending.answer for pending in self._exchange.discard()])
        self._meter.ended = time.monotonic()
        for sink in self._sinks:
            if close := getattr(sink, "close", None):
                try:
                    close()
                except Exception as exc:
                    self._fail(exc, "a sink could not be closed")
