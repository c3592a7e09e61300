"""Video files, written frame by frame: H.264 where this machine can encode it, every frame counted.

The encoders, best first:

``ffmpeg``
    H.264 by libx264 in the ``ffmpeg`` program, a process of its own that is fed through a pipe. It reports
    errors, and its file can be played at any time: MP4 is written in fragments of two seconds, which are
    joined at the end.
``opencv-h264``
    H.264 by OpenCV, where its FFmpeg has an encoder: in OpenCV from Debian and JetPack, or by a Raspberry
    Pi's hardware. The wheels from PyPI have none.
``opencv``
    MPEG-4 part 2, which every OpenCV writes; and Motion JPEG for AVI (``opencv-mjpg``). Browsers play
    neither.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import final

import numpy as np

from fcn_deploy.camera.sinks.encoders import (
    Encoder,
    Ffmpeg,
    OpenCv,
    why_no_ffmpeg,
    why_no_opencv,
    why_no_opencv_h264,
)
from fcn_deploy.draw import Picture
from fcn_deploy.errors import BackendUnavailable, PipelineError, UsageError
from fcn_deploy.files import atomic_output
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
"""Suffixes of videos that can be written."""

ENCODERS = {
    "ffmpeg": "H.264 by the ffmpeg program",
    "opencv-h264": "H.264 by OpenCV",
    "opencv": "MPEG-4 part 2 by OpenCV",
    "opencv-mjpg": "Motion JPEG by OpenCV",
}
"""Encoders by name, best first, and what they make."""

_OPENERS: dict[str, Callable[[Path, tuple[int, int], float, str], Encoder]] = {
    "ffmpeg": Ffmpeg,
    "opencv-h264": partial(OpenCv, codec="avc1"),
    "opencv": partial(OpenCv, codec="mp4v"),
    "opencv-mjpg": partial(OpenCv, codec="MJPG"),
}

_REASONS: dict[str, Callable[[], str | None]] = {
    "ffmpeg": why_no_ffmpeg,
    "opencv-h264": why_no_opencv_h264,
    "opencv": why_no_opencv,
    "opencv-mjpg": why_no_opencv,
}


def video_encoders(suffix: str = ".mp4") -> dict[str, str | None]:
    """Encoders for such a file, best first: why each one does not work here, or None where it does.

    Args:
        suffix: one of :data:`VIDEO_SUFFIXES`.
    """
    return {name: _REASONS[name]() for name in _writers_of(suffix)}


def _writers_of(suffix: str) -> tuple[str, ...]:
    return ("opencv-mjpg",) if suffix == ".avi" else ("ffmpeg", "opencv-h264", "opencv")


@final
class VideoFile:
    """A video that is put in place when it is closed.

    Until then it grows under a hidden name in the same folder, ``.NAME.….part.mp4``. If the process is
    killed, that file stays: it is complete where the ffmpeg program wrote it, which finishes when its pipe
    is closed. After a power cut an MP4 of ffmpeg's lacks its last fragment of two seconds, and what the
    system had not yet written to the disk; a Matroska file about as much; an MP4 of OpenCV's is lost.

    Args:
        path: the file to write; its suffix decides the container.
        fps: frames per second; where it is None, set it before the first frame.
        encoder: a key of :data:`ENCODERS`; None takes the first that works.

    Raises:
        UsageError: the suffix, the rate or the encoder is unknown, or the folder cannot be written.
        BackendUnavailable: no encoder works here; the message says what to install.
    """

    def __init__(self, path: str | Path, fps: float | None, *, encoder: str | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UsageError(f"{path} is no video; expected a name that ends in {', '.join(VIDEO_SUFFIXES)}")
        if fps is not None and not (0 < fps <= 1000):
            raise UsageError(f"a video has more than 0 and up to 1000 frames a second, not {fps}")
        self._candidates = _candidates(self.path, encoder)
        self.fps = fps
        self.frames = 0
        """How many frames were written."""
        self.encoder: str | None = None
        """What encodes it, a key of :data:`ENCODERS`; None before the first frame."""
        self._encoder: Encoder | None = None
        self._size, self._order = (0, 0), "rgb"
        self._output = ExitStack()
        """Puts the file in place when it is closed, and removes it where an exception leaves it."""
        self._temporary = self._output.enter_context(atomic_output(self.path))
        self._closed = False

    def write(self, picture: Picture, color_order: str = "rgb") -> None:
        """Append a picture.

        Args:
            picture: uint8 ``[H, W, 3]``. The first one decides the size, made even with a black
                edge; others are scaled into it, with black bars.
            color_order: ``rgb`` or ``bgr``.

        Raises:
            PipelineError: the disk is full or the encoder failed. The frames written before are kept, and
                the message says how many they are.
            UsageError: no encoder takes pictures of that size, or the video is closed.
        """
        if self._closed:
            raise UsageError(f"{self.path} is closed; nothing more can be written to it")
        if self._encoder is None:
            height, width = picture.shape[:2]
            self._size, self._order = (height + height % 2, width + width % 2), color_order
            self._encoder = self._opened()
        if color_order != self._order:
            picture = picture[..., ::-1]
        try:
            self._encoder.write(np.ascontiguousarray(letterbox(picture, self._size)))
        except OSError as exc:
            reason = exc.strerror or str(exc)
            found = self._settle(self._encoder)
            raise PipelineError(self._cut_short(found, reason)) from exc
        self.frames += 1

    def close(self, fps: float | None = None) -> None:
        """Finish the video and put it in place; without a frame no file is written.

        Args:
            fps: the real frames per second, where it differs from the rate at the first frame. Only the
                ffmpeg program's videos get it; OpenCV's keep the first rate.

        Raises:
            PipelineError: not every frame is in the file.
        """
        if self._closed:
            return
        if self._encoder is None:
            self.discard()
            return
        found = self._settle(self._encoder, self.fps / fps if fps and self.fps else 1.0)
        if found < self.frames:
            raise PipelineError(self._cut_short(found, self._encoder.problem or "is the disk full?"))

    def discard(self) -> None:
        """Stop and remove what was written; an older file at :attr:`path` stays."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._encoder is not None:
                self._encoder.abort()
        finally:
            self._remove()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Encoder:
        if self.fps is None:
            raise UsageError(f"{self.path} needs a rate: set fps before the first frame")
        for name in self._candidates:
            try:
                opened = _OPENERS[name](self._temporary, self._size, self.fps, self._order)
            except OSError as exc:
                log.debug("%s: %s cannot: %s", self.path, ENCODERS[name], exc)
                continue
            self.encoder = name
            log.info("%s: %s, %dx%d", self.path, ENCODERS[name], self._size[1], self._size[0])
            return opened
        raise UsageError(
            f"no encoder here writes {self.path} at {self._size[1]}x{self._size[0]}; "
            "name a folder to write pictures"
        )

    def _settle(self, encoder: Encoder, stretch: float = 1.0) -> int:
        """Finish the file and put it in place if it holds frames. Returns how many it holds."""
        self._closed = True
        found = 1  # where a second Ctrl-C interrupts the counting, the file is kept
        try:
            found = encoder.finish(stretch)
        finally:
            if found:
                self._output.close()
            else:
                self._remove()
        return found

    def _remove(self) -> None:
        with suppress(_Discard), self._output:
            raise _Discard

    def _cut_short(self, found: int, reason: str) -> str:
        kept = f"it holds the first {found} of {self.frames} frames" if found else "nothing of it was kept"
        return f"{self.path} was cut short ({reason}); {kept}"


class _Discard(Exception):
    """Makes atomic_output remove its file."""


def _candidates(path: Path, encoder: str | None) -> tuple[str, ...]:
    """Encoders to try for a file, best first."""
    names = _writers_of(path.suffix.lower())
    if encoder is not None:
        if encoder not in names:
            raise UsageError(f"{path} is not written by {encoder!r}; choose from {', '.join(names)}")
        names = (encoder,)
    reasons = {}
    for name in names:
        reasons[name] = _REASONS[name]()
        if reasons[name] is None:
            return names[len(reasons) - 1 :]
    raise BackendUnavailable(f"{path} cannot be written here: {'; '.join(map(str, reasons.values()))}")


def letterbox(picture: Picture, size: tuple[int, int]) -> Picture:
    """A picture scaled into another size, with black bars where the shapes differ.

    Args:
        picture: uint8 ``[H, W, 3]``.
        size: height and width. A picture that is one row or column smaller is padded, not scaled.

    Returns:
        uint8 ``[*size, 3]``; the picture itself where it has that size.
    """
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    if not (0 <= size[0] - height <= 1 and 0 <= size[1] - width <= 1):
        scale = min(size[0] / height, size[1] / width)
        height, width = max(1, math.floor(height * scale)), max(1, math.floor(width * scale))
        pillow = require("PIL.Image", extra="cpu")
        image = pillow.fromarray(np.ascontiguousarray(picture))
        picture = np.asarray(image.resize((width, height), pillow.Resampling.BILINEAR))
    padded = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    padded[top : top + height, left : left + width] = picture
    return padded
