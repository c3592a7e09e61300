"""A video with the labels drawn over the frames."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import camera_path
from fcn_deploy.camera.sinks.video_file import VideoFile
from fcn_deploy.draw import Overlay, Picture

_MEASURED_FRAMES = 9
"""Frames of a camera that a video's rate is measured from."""

_DEFAULT_FPS, _MIN_FPS, _MAX_FPS = 10.0, 0.1, 240.0
"""Frames per second where there are too few to measure, and the limits of a measured rate."""

_MIN_PAUSE = 2.0
"""Seconds between two frames from which on they are a pause, such as a lost stream, which is cut out."""


@final
class OverlayVideo(Sink):
    """A video of the frames with their labels drawn over them, all frames in the first one's size.

    Args:
        path: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` or ``.avi``. Several cameras get a video each,
            ``name.0.mp4``, ``name.1.mp4`` and so on.
        fps: frames per second; None measures it for each camera. Measure it for live sources: their real
            rate may differ from the stated one, and a slow model drops frames. Pauses of more than two
            seconds are cut out. OpenCV's encoders get the rate of the first nine frames, because they
            cannot change it later; the ffmpeg program's videos get the mean of the whole run.
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.
        encoder: what encodes it; None takes the best one that works here.

    Raises:
        UsageError: the suffix is unknown, the rate or alpha is out of range, or the folder cannot be
            written.
        BackendUnavailable: no encoder works here.
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
                opened.enter_context(
                    VideoFile(camera_path(Path(path), camera, cameras), fps, encoder=encoder)
                )
                for camera in range(cameras)
            )
            """The video of each camera; its ``encoder`` says what encodes it."""
            self._opened = opened.pop_all()
        self._waiting: list[list[tuple[Picture, str, float]]] = [[] for _ in range(cameras)]
        self._meters = [None if fps else _RateMeter() for _ in range(cameras)]

    def __call__(self, delivery: Delivery) -> None:
        camera, order = delivery.frame.camera, delivery.result.spec.color_order
        if meter := self._meters[camera]:
            meter.add(delivery.frame.captured)
        drawn = self._draw(delivery.frame.image, delivery.labels, delivery.result.spec)
        if self.videos[camera].fps is None:
            waiting = self._waiting[camera]
            waiting.append((drawn.copy(), order, delivery.frame.captured))
            if len(waiting) == _MEASURED_FRAMES:
                self._begin(camera)
        else:
            self.videos[camera].write(drawn, order)

    def close(self) -> None:
        with self._opened:  # closes the other videos too where one cannot be finished
            for camera in range(len(self.videos)):
                self._opened.callback(self._finish, camera)

    def _finish(self, camera: int) -> None:
        """Write the frames that wait for a rate, and close the video; a second call does nothing."""
        if self._waiting[camera]:
            self._begin(camera)
        meter = self._meters[camera]
        self.videos[camera].close(meter.rate() if meter else None)

    def _begin(self, camera: int) -> None:
        """Write the frames that waited until the rate was known."""
        waiting, self._waiting[camera] = self._waiting[camera], []
        self.videos[camera].fps = _rate([captured for _, _, captured in waiting])
        for picture, order, _ in waiting:
            self.videos[camera].write(picture, order)


class _RateMeter:
    """The mean rate of a camera's frames, without pauses."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds, self._gaps = 0.0, 0

    def add(self, captured: float) -> None:
        """Add a frame by its capture time, in seconds."""
        if self._last is not None and 0 < (gap := captured - self._last) <= _MIN_PAUSE:
            self._seconds, self._gaps = self._seconds + gap, self._gaps + 1
        self._last = captured

    def rate(self) -> float | None:
        """Frames per second; None before there were two."""
        return self._gaps / self._seconds if self._gaps else None


def _rate(captured: list[float]) -> float:
    """Frames per second, from the capture times of the first frames."""
    gaps = [after - before for before, after in pairwise(captured)]
    gap = statistics.median(gaps) if gaps else 0.0
    return min(max(round(1 / gap, 2), _MIN_FPS), _MAX_FPS) if gap > 0 else _DEFAULT_FPS
