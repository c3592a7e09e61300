"""Sources without a device: files, and any iterable of frames."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.camera.frames import CameraFrame
from fcn_deploy.camera.sources.base import Source
from fcn_deploy.camera.sources.images import rotated
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.data.folders import ImageFolder
from fcn_deploy.data.opening import open_frames
from fcn_deploy.data.video import Video
from fcn_deploy.errors import UsageError

log = logging.getLogger("fcn_deploy.camera")


class Pace:
    """Waits between frames so that they come at a given rate; a late frame does not shorten the next waits.

    Args:
        fps: frames a second, more than 0.
    """

    def __init__(self, fps: float) -> None:
        self._interval = 1 / fps
        self._due: float | None = None

    def wait(self, stopping: threading.Event) -> None:
        """Return when the next frame is due, or ``stopping`` is set; the first is due at once."""
        now = time.monotonic()
        due = now if self._due is None else max(self._due + self._interval, now)
        self._due = due
        stopping.wait(due - now)


@final
class FileSource(Source):
    """An image, a folder of images, or a video.

    Args:
        path: where it is.
        color_order: ``bgr`` or ``rgb``.
        options: ``pace``, ``fps``, ``rotate`` and ``live`` are used. At real-time pace the source is
            live: frames are dropped where the consumer is too slow, as with a camera.

    Raises:
        SourceError: it is missing, empty or cannot be read.
        UsageError: real-time pace was asked for images without giving their rate.
    """

    def __init__(self, path: str | Path, color_order: str, options: SourceOptions) -> None:
        self._recorded = open_frames(path, color_order)
        self._options = options
        real_time = options.pace == "real-time"
        fps, length = _rate_and_length(self._recorded, options)
        if real_time and fps is None:
            raise UsageError(f"{path} holds images, which have no rate; give fps for real-time pace")
        self._pace = fps if real_time else None
        live = real_time if options.live is None else options.live
        super().__init__(str(path), live=live, color_order=color_order, length=length, fps=fps)

    def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
        """The frames in order.

        Raises:
            SourceError: an image, or the whole video, cannot be decoded. A video that ends before
                its stated length is only a warning in the log.
        """
        delivered = 0
        pace = Pace(self._pace) if self._pace else None
        self.state.phase = "streaming"
        try:
            recorded = self._recorded
            frames: Any = recorded.frames() if isinstance(recorded, Video) else iter(recorded)
            with closing(frames):
                while not stopping.is_set() and (frame := next(frames, None)) is not None:
                    captured = time.monotonic()
                    if pace is not None:
                        pace.wait(stopping)
                        captured = time.monotonic()
                    image = rotated(frame.image, self._options.rotate)
                    if delivered == 0:
                        self.state.properties = self._properties(image)
                    yield CameraFrame(image, frame.name, frame.index, captured)
                    delivered += 1
                if self.length is not None and delivered < self.length and not stopping.is_set():
                    self.state.message = (
                        f"states {self.length} frames and gave {delivered}: it is damaged or cut off"
                    )
                    log.warning("%s %s", self.name, self.state.message)
        finally:
            self.state.phase = "ended"

    def _properties(self, image: NDArray[np.uint8]) -> dict[str, object]:
        got = {"size": list(image.shape[:2]), "fps": self.fps, "color_order": self.color_order}
        return {"asked": {}, "got": got, "rotate": self._options.rotate}


@final
class IterableSource(Source):
    """A source of frames from an iterable, such as a list or a generator.

    Args:
        frames: uint8 ``[H, W, 3]`` arrays, or :class:`CameraFrame`; iterated once by each call of
            :meth:`frames`. An iterator that is given here is not closed.
        live: whether frames are dropped where the consumer is too slow.
        fps: frames a second that they come at; None gives each one as soon as it is asked for.
        color_order: ``bgr`` or ``rgb``: of the arrays.
        name: for messages.
    """

    def __init__(
        self,
        frames: Iterable[NDArray[np.uint8]] | Iterable[CameraFrame],
        live: bool = False,
        fps: float | None = None,
        color_order: str = "bgr",
        name: str = "frames",
    ) -> None:
        super().__init__(name, live=live, fps=fps, color_order=color_order, length=_known_length(frames))
        self._frames = frames

    def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
        """The frames in order; an array's capture time is the time at which it is given."""
        pace = Pace(self.fps) if self.fps else None
        self.state.phase = "streaming"
        frames: Iterator[NDArray[np.uint8] | CameraFrame] = iter(self._frames)
        try:
            for index, given in enumerate(frames):
                if pace is not None:
                    pace.wait(stopping)
                if stopping.is_set():
                    return
                if isinstance(given, CameraFrame):
                    yield given
                else:
                    yield CameraFrame(given, f"{index:06d}", index, time.monotonic())
        finally:
            if frames is not self._frames and hasattr(frames, "close"):
                frames.close()
            self.state.phase = "ended"


def _rate_and_length(
    recorded: ImageFolder | Video, options: SourceOptions
) -> tuple[float | None, int | None]:
    if isinstance(recorded, Video):
        return recorded.fps, recorded.count
    return options.fps, len(recorded)


def _known_length(frames: object) -> int | None:
    return len(frames) if hasattr(frames, "__len__") else None
