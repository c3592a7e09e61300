"""What the threads of a pipeline hand to each other, all of it under one lock.

A frame is in exactly one place at any time, so the counts add up at any time::

    captured = delivered + dropped + failed + in flight

In flight is what waits in a box, is with the model, or is being delivered. Frames are dropped in one
place only, the box of a live camera: what the model has answered is delivered. Every wait here ends when
the pipeline stops; nothing but this lock is ever waited for while it is held.
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
    served: int = 0
    """When the model last took from it, counted in frames of all cameras."""

    @property
    def in_flight(self) -> int:
        return self.captured - self.dropped - self.failed - self.delivered


@final
class Pending:
    """Frames that the model was given, with the answer to come.

    Args:
        frames: of one size.
        answer: what :meth:`Segmenter.start` gave for them.
        submitted: when, seconds of ``time.monotonic()``.
    """

    def __init__(self, frames: list[CameraFrame], answer: Future[Segmentation], submitted: float) -> None:
        self.frames = frames
        self.answer = answer
        self.submitted = submitted
        # Not a method of this: the answer would refer to what refers to it, and frames would be kept
        # until the garbage collector comes by.
        self._moments: list[float] = []
        answer.add_done_callback(partial(_note_moment, self._moments))

    @property
    def ready(self) -> float | None:
        """When the answer was there, seconds of ``time.monotonic()``."""
        return self._moments[0] if self._moments else None


def _note_moment(moments: list[float], _: Future[Segmentation]) -> None:
    moments.append(time.monotonic())


@final
class FrameQueues:
    """Boxes of frames on one side, a queue of answers on the other.

    Args:
        live: for each camera whether its oldest frame is dropped for a new one; otherwise capturing
            waits for room.
        capacity: frames that wait in the box of a camera that is not live; a live one keeps the newest.
        depth: groups of frames that may be with the model at a time.
    """

    def __init__(self, live: Sequence[bool], *, capacity: int, depth: int) -> None:
        self.boxes = [CameraQueue(1 if each else capacity, each) for each in live]
        self.stopping = threading.Event()
        self._changed = threading.Condition()
        self._depth = depth
        self._pending: deque[Pending] = deque()
        self._taken = False
        self._takes = 0

    def put(self, frame: CameraFrame) -> bool:
        """Hand over a captured frame; waits for room unless the camera is live.

        Returns:
            Whether capturing is to go on.
        """
        box = self.boxes[frame.camera]
        with self._changed:
            box.captured += 1
            self._changed.wait_for(
                lambda: box.live or len(box.frames) < box.capacity or self.stopping.is_set()
            )
            if self.stopping.is_set():
                box.dropped += 1
                return False
            if len(box.frames) == box.capacity:
                box.frames.popleft()
                box.dropped += 1
            box.frames.append(frame)
            self._changed.notify_all()
            return True

    def end(self, camera: int) -> None:
        """No more frames come from this camera."""
        with self._changed:
            self.boxes[camera].ended = True
            self._changed.notify_all()

    def take(self, most: int | None) -> list[CameraFrame] | None:
        """Frames of one size, one of each camera at most: the next for the model.

        Waits for a frame and for room with the model. The camera that waited longest comes first.
        Whoever takes must call :meth:`submitted` or :meth:`lost` before it takes again.

        Args:
            most: how many frames the model takes at a time; None for any number.

        Returns:
            None when nothing more is to come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over() or (self._has_frames() and self._has_room()))
            if self._over():
                return None
            waiting = sorted((box for box in self.boxes if box.frames), key=lambda box: box.served)
            shape = waiting[0].frames[0].image.shape
            chosen = [box for box in waiting if box.frames[0].image.shape == shape][:most]
            for box in chosen:
                self._takes += 1  # by box, or those of one take would be served in the same order for ever
                box.served = self._takes
            self._taken = True
            frames = [box.frames.popleft() for box in chosen]
            self._changed.notify_all()
            return frames

    def submitted(self, pending: Pending) -> None:
        """What was taken is with the model."""
        with self._changed:
            self._taken = False
            self._pending.append(pending)
            self._changed.notify_all()

    def lost(self, frames: list[CameraFrame]) -> None:
        """What was taken could not be given to the model."""
        with self._changed:
            self._taken = False
            for frame in frames:
                self.boxes[frame.camera].failed += 1
            self._changed.notify_all()

    def oldest(self) -> Pending | None:
        """What was given to the model first and was not collected; waits for it. None: no more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or (self._over() and not self._taken))
            return self._pending[0] if self._pending else None

    def collected(self) -> None:
        """The oldest answer was taken up: there is room with the model."""
        with self._changed:
            self._pending.popleft()
            self._changed.notify_all()

    def delivered(self, frame: CameraFrame) -> None:
        """A frame reached every sink."""
        with self._changed:
            self.boxes[frame.camera].delivered += 1

    def failed(self, frame: CameraFrame) -> None:
        """A frame's answer, or its delivery, failed."""
        with self._changed:
            self.boxes[frame.camera].failed += 1

    def given_up(self, frame: CameraFrame) -> None:
        """An answered frame was not delivered, because the run ended before."""
        with self._changed:
            self.boxes[frame.camera].dropped += 1

    def drain(self) -> None:
        """Capture no more; what waits in the boxes is still taken."""
        with self._changed:
            self.stopping.set()
            self._changed.notify_all()

    def stop(self) -> None:
        """Drop what waits in the boxes; what the model has is still delivered."""
        with self._changed:
            self.drain()
            for box in self.boxes:
                box.dropped += len(box.frames)
                box.frames.clear()

    def discard(self) -> list[Pending]:
        """Give up the answers that were not collected, counted as dropped."""
        with self._changed:
            pending = list(self._pending)
            self._pending.clear()
            for frame in (frame for each in pending for frame in each.frames):
                self.boxes[frame.camera].dropped += 1
            self._changed.notify_all()
            return pending

    def cameras_left(self) -> int:
        """Cameras that have not ended."""
        with self._changed:
            return sum(not box.ended for box in self.boxes)

    def counts(self) -> list[CameraQueue]:
        """The boxes as they are at one moment, without their frames."""
        with self._changed:
            return [
                CameraQueue(
                    box.capacity,
                    box.live,
                    captured=box.captured,
                    dropped=box.dropped,
                    failed=box.failed,
                    delivered=box.delivered,
                    ended=box.ended,
                )
                for box in self.boxes
            ]

    def _has_frames(self) -> bool:
        return any(box.frames for box in self.boxes)

    def _has_room(self) -> bool:
        return len(self._pending) < self._depth

    def _over(self) -> bool:
        """Nothing more can be taken."""
        no_more_come = self.stopping.is_set() or all(box.ended for box in self.boxes)
        return no_more_come and not self._has_frames()
