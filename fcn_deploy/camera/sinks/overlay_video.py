"""A video with the labels drawn over the frames."""

from __future__ import annotations

import logging
import statistics
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import numbered
from fcn_deploy.camera.sinks.video_file import Picture, VideoFile
from fcn_deploy.draw import Overlay

log = logging.getLogger("fcn_deploy.camera")


_MEASURED = 9
"""Frames of a camera after which a video's rate is decided."""


_UNKNOWN, _SLOWEST, _FASTEST = 10.0, 0.1, 240.0
"""Frames per second where there are too few to measure, and the limits of what is measured."""


_PAUSE = 2.0
"""Seconds between two frames that are a pause, such as a lost stream, and not the camera's pace."""


@final
class OverlayVideo(Sink):
    """A video of the frames with their labels drawn over them, all frames in the first one's size.

    Args:
        path: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` or ``.avi``. Several cameras give a video each,
            ``name.0.mp4``, ``name.1.mp4`` and so on.
        fps: frames per second; None measures it for each camera, which a live source needs, because it
            may give another rate than it states, and a slow model takes fewer. Pauses of more than two
            seconds are cut out. OpenCV's encoders need the rate at the first frame and are given that of
            the first nine; the ffmpeg program's videos get the mean of the whole run.
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.
        encoder: a key of :data:`~fcn_deploy.camera.sinks.video_file.ENCODERS`; None takes the best that
            works.

    Raises:
        UsageError: the suffix, the rate or alpha cannot be, or the folder cannot be written.
        BackendUnavailable: there is nothing to write videos with.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | None = None,
        *,
        alpha: float = 0.5,
        legend: bool = True,
        cameras: int = 1,
        encoder: str | None = None,
    ) -> None:
        self._draw = Overlay(alpha, legend=legend)
        with ExitStack() as opened:
            self.videos = tuple(
                opened.enter_context(VideoFile(numbered(Path(path), camera, cameras), fps, encoder=encoder))
                for camera in range(cameras)
            )
            """The video of each camera; its ``encoder`` says what encodes it."""
            self._opened = opened.pop_all()
        self._waiting: list[list[tuple[Picture, str, float]]] = [[] for _ in range(cameras)]
        self._clocks = [None if fps else _Clock() for _ in range(cameras)]

    def __call__(self, delivery: Delivery) -> None:
        camera, order = delivery.frame.camera, delivery.answer.spec.color_order
        if clock := self._clocks[camera]:
            clock.tick(delivery.frame.captured)
        drawn = self._draw(delivery.frame.image, delivery.labels, delivery.answer.spec)
        if self.videos[camera].fps is None:
            waiting = self._waiting[camera]
            waiting.append((drawn.copy(), order, delivery.frame.captured))
            if len(waiting) == _MEASURED:
                self._begin(camera)
        else:
            self.videos[camera].write(drawn, order)

    def close(self) -> None:
        with self._opened:  # which closes the others' videos where one cannot be finished
            for camera in range(len(self.videos)):
                self._opened.callback(self._finish, camera)

    def _finish(self, camera: int) -> None:
        """Write what waits for a rate, and end the video; a second time does nothing."""
        if self._waiting[camera]:
            self._begin(camera)
        clock = self._clocks[camera]
        self.videos[camera].close(clock.rate() if clock else None)

    def _begin(self, camera: int) -> None:
        """Write the frames that waited until the rate was known."""
        waiting, self._waiting[camera] = self._waiting[camera], []
        self.videos[camera].fps = _rate([captured for _, _, captured in waiting])
        for picture, order, _ in waiting:
            self.videos[camera].write(picture, order)


class _Clock:
    """The mean rate of a camera's frames, without its pauses."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds, self._gaps = 0.0, 0

    def tick(self, captured: float) -> None:
        """A frame was captured at this second."""
        if self._last is not None and 0 < (gap := captured - self._last) <= _PAUSE:
            self._seconds, self._gaps = self._seconds + gap, self._gaps + 1
        self._last = captured

    def rate(self) -> float | None:
        """Frames per second; None before there were two."""
        return self._gaps / self._seconds if self._gaps else None


def _rate(captured: list[float]) -> float:
    """Frames per second, from the seconds at which the first ones were captured."""
    gaps = [after - before for before, after in pairwise(captured)]
    gap = statistics.median(gaps) if gaps else 0.0
    return min(max(round(1 / gap, 2), _SLOWEST), _FASTEST) if gap > 0 else _UNKNOWN
