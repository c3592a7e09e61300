"""The queues between a pipeline's threads, and the count of every frame, under one lock.

A frame is in exactly one place at any time, so the counts add up at any time::

    captured = delivered + dropped + failed + in flight

A frame is in flight while it waits in its camera's queue, is with the model, or is being delivered. Frames
are dropped in one place only, the queue of a live camera; every result of the model is delivered. Every
wait here ends when the pipeline stops, and no other lock is waited for while this one is held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import final

from fcn_deploy.camera.frames import CameraFrame
from fcn_deploy.runtimes.base import Segmentation


@dataclass
class CameraQueue:
    """The frames of one camera that the model has not taken yet, and the camera's counts."""

    capacity: int
    live: bool
    frames: deque[CameraFrame] = field(default_factory=deque)
    captured: int = 0
    dropped: int = 0
    failed: int = 0
    delivered: int = 0
    ended: bool = False
    last_served: int = 0
    """The number of the take that last took a frame from it."""

    @property
    def in_flight(self) -> int:
        return self.captured - self.dropped - self.failed - self.delivered


@final
class PendingResult:
    """Frames that were submitted to the model, and their result to come.

    Args:
        frames: of one size.
        future: what :meth:`Segmenter.start` returned for them.
        submitted_at: seconds of ``time.monotonic()``.
    """

    def __init__(self, frames: list[CameraFrame], future: Future[Segmentation], submitted_at: float) -> None:
        self.frames = frames
        self.future = future
        self.submitted_at = submitted_at
        # The callback is no method of this object: that would be a reference cycle, which keeps the
        # frames in memory until the garbage collector runs.
        self._ready_at: list[float] = []
        future.add_done_callback(partial(_note_time, self._ready_at))

    @property
    def ready_at(self) -> float | None:
        """When the result was ready, seconds of ``time.monotonic()``; None before that."""
        return self._ready_at[0] if self._ready_at else None


def _note_time(times: list[float], _: Future[Segmentation]) -> None:
    times.append(time.monotonic())


@final
class FrameQueues:
    """A queue of frames for each camera, and a queue of results to come from the model.

    Args:
        live: for each camera, whether its oldest frame is dropped for a new one; otherwise capturing
            waits until there is room.
        capacity: frames that wait in the queue of a camera that is not live; a live one keeps the newest.
        depth: groups of frames that may be with the model at a time.
    """

    def __init__(self, live: Sequence[bool], *, capacity: int, depth: int) -> None:
        self.stopping = threading.Event()
        """Set when nothing more is to be captured."""
        self._queues = [CameraQueue(1 if each else capacity, each) for each in live]
        self._changed = threading.Condition()
        self._depth = depth
        self._pending: deque[PendingResult] = deque()
        self._submitting = False
        """Whether frames were taken and neither submitted() nor submit_failed() was called yet."""
        self._takes = 0

    def put(self, frame: CameraFrame) -> bool:
        """Add a captured frame; waits for room unless the camera is live.

        Returns:
            Whether capturing is to go on.
        """
        queue = self._queues[frame.camera]
        with self._changed:
            queue.captured += 1
            self._changed.wait_for(
                lambda: queue.live or len(queue.frames) < queue.capacity or self.stopping.is_set()
            )
            if self.stopping.is_set():
                queue.dropped += 1
                return False
            if len(queue.frames) == queue.capacity:
                queue.frames.popleft()
                queue.dropped += 1
            queue.frames.append(frame)
            self._changed.notify_all()
            return True

    def end_camera(self, camera: int) -> None:
        """No more frames come from this camera."""
        with self._changed:
            self._queues[camera].ended = True
            self._changed.notify_all()

    def take(self, most: int | None) -> list[CameraFrame] | None:
        """The next frames for the model: of one size, and at most one of each camera.

        Waits until there is a frame and room with the model. The camera that waited longest comes first.
        The caller must call :meth:`submitted` or :meth:`submit_failed` before it takes again.

        Args:
            most: how many frames the model takes at a time; None for any number.

        Returns:
            None when no more frames come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over() or (self._has_frames() and self._has_room()))
            if self._is_over():
                return None
            waiting = sorted((queue for queue in self._queues if queue.frames), key=lambda q: q.last_served)
            shape = waiting[0].frames[0].image.shape
            chosen = [queue for queue in waiting if queue.frames[0].image.shape == shape][:most]
            for queue in chosen:
                # One number for each queue, or the cameras of one take would always keep their order.
                self._takes += 1
                queue.last_served = self._takes
            self._submitting = True
            frames = [queue.frames.popleft() for queue in chosen]
            self._changed.notify_all()
            return frames

    def submitted(self, pending: PendingResult) -> None:
        """The frames that were taken are with the model."""
        with self._changed:
            self._submitting = False
            self._pending.append(pending)
            self._changed.notify_all()

    def submit_failed(self, frames: list[CameraFrame]) -> None:
        """The frames that were taken could not be submitted to the model."""
        with self._changed:
            self._submitting = False
            for frame in frames:
                self._queues[frame.camera].failed += 1
            self._changed.notify_all()

    def oldest(self) -> PendingResult | None:
        """The result that was submitted first and is not collected yet; waits until there is one.

        Returns:
            None when no more results come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._pending or (self._is_over() and not self._submitting))
            return self._pending[0] if self._pending else None

    def collected(self) -> None:
        """The oldest result was collected: there is room with the model."""
        with self._changed:
            self._pending.popleft()
            self._changed.notify_all()

    def delivered(self, frame: CameraFrame) -> None:
        """A frame reached every sink."""
        with self._changed:
            self._queues[frame.camera].delivered += 1

    def failed(self, frame: CameraFrame) -> None:
        """A frame's inference or delivery failed."""
        with self._changed:
            self._queues[frame.camera].failed += 1

    def dropped(self, frame: CameraFrame) -> None:
        """A frame with a result was not delivered, because the run ended before."""
        with self._changed:
            self._queues[frame.camera].dropped += 1

    def stop_capture(self) -> None:
        """Capture no more; frames that wait in the queues are still taken."""
        with self._changed:
            self.stopping.set()
            self._changed.notify_all()

    def stop(self) -> None:
        """Capture no more and drop the frames that wait; those with the model are still delivered."""
        with self._changed:
            self.stop_capture()
            for queue in self._queues:
                queue.dropped += len(queue.frames)
                queue.frames.clear()

    def discard(self) -> list[PendingResult]:
        """Remove the results that were not collected; their frames count as dropped."""
        with self._changed:
            pending = list(self._pending)
            self._pending.clear()
            for frame in (frame for each in pending for frame in each.frames):
                self._queues[frame.camera].dropped += 1
            self._changed.notify_all()
            return pending

    def counts(self) -> list[CameraQueue]:
        """The queues as they are at one moment, without their frames."""
        with self._changed:
            return [
                CameraQueue(
                    queue.capacity,
                    queue.live,
                    captured=queue.captured,
                    dropped=queue.dropped,
                    failed=queue.failed,
                    delivered=queue.delivered,
                    ended=queue.ended,
                )
                for queue in self._queues
            ]

    def _has_frames(self) -> bool:
        return any(queue.frames for queue in self._queues)

    def _has_room(self) -> bool:
        return len(self._pending) < self._depth

    def _is_over(self) -> bool:
        """Whether nothing more can be taken."""
        no_more_come = self.stopping.is_set() or all(queue.ended for queue in self._queues)
        return no_more_come and not self._has_frames()
