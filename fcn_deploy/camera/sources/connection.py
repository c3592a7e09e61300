"""One connection to a live stream: its images until it is lost, and the reason of the loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any, final

from fcn_deploy.camera.sources.images import Image, three_channels
from fcn_deploy.lazy import require

ENDED = "the stream ended"
"""The reason of a loss where reads fail without an error."""

_MAX_BACKLOG = 1.0
"""Seconds for which old frames are skipped after opening."""

_MAX_FAILED_READS = 30
"""Failed reads in a row after which the stream has ended: OpenCV reports a packet that cannot be decoded
in the same way as the end of the stream."""


@final
class Connection:
    """Reads an opened capture.

    Args:
        capture: an opened ``cv2.VideoCapture``, or an object with its methods.
        color_order: ``bgr`` or ``rgb``: of the images.
        timeout: seconds without a frame, or with damaged frames only, after which it is lost.
        skip_backlog: whether to skip the frames that were buffered while it was being opened. They are
            old, and are read without a wait; the first one that has to be waited for is new.
    """

    def __init__(self, capture: Any, color_order: str, timeout: float, *, skip_backlog: bool) -> None:
        self.capture = capture
        self.loss = ""
        """Why it gives no more images; empty while it does."""
        self._color_order, self._timeout = color_order, timeout
        self._backlog = _Backlog(capture) if skip_backlog else None
        self._failed_reads = 0
        self._damaged_since: float | None = None

    def images(self, stopping: threading.Event) -> Generator[tuple[Image, float], None, None]:
        """Images, uint8 ``[H, W, 3]``, each with the ``time.monotonic()`` it came at, until it is lost.

        Where the stream ends while its backlog is being skipped, the last image of the backlog is given.
        """
        skipped: tuple[Image, float] | None = None
        while not stopping.is_set():
            begun = time.monotonic()
            read = self._read()
            waited = (time.monotonic() if read is None else read[1]) - begun
            # At the timeout FFmpeg gives the frame that its decoder still holds, and none after that.
            if waited >= self._timeout:
                self.loss = f"no frame came for {waited:.1f} s"
            if self.loss:
                break
            if read is None:
                continue
            if self._backlog is not None and not self._backlog.is_over(waited):
                skipped = read
                continue
            self._backlog = skipped = None
            yield read
        if skipped is not None:
            yield skipped

    def _read(self) -> tuple[Image, float] | None:
        """The next image and when it came; None where there is none, or it is damaged."""
        error = require("cv2", extra="opencv").error
        try:
            grabbed = self.capture.grab()
        except error as exc:
            self.loss = f"OpenCV failed ({error_text(exc)})"
            return None
        came = time.monotonic()
        if not grabbed:
            self._failed_reads += 1
            if self._failed_reads >= _MAX_FAILED_READS:
                self.loss = ENDED
            return None
        self._failed_reads = 0
        try:
            image = three_channels(self.capture.retrieve()[1], self._color_order)
        except (ValueError, error) as exc:
            self._note_damaged(error_text(exc), came)
            return None
        self._damaged_since = None
        return image, came

    def _note_damaged(self, problem: str, now: float) -> None:
        """A frame is damaged; damaged frames only, for as long as the timeout, are a loss."""
        if self._damaged_since is None:
            self._damaged_since = now
        elif now - self._damaged_since >= self._timeout:
            self.loss = f"for {now - self._damaged_since:.1f} s no frame could be used: {problem}"


class _Backlog:
    """Tells buffered frames from the first one that had to be waited for."""

    def __init__(self, capture: Any) -> None:
        fps = capture.get(require("cv2", extra="opencv").CAP_PROP_FPS)
        self._gap = 0.25 / (fps if 1 <= fps <= 1000 else 30)
        self._until = time.monotonic() + _MAX_BACKLOG

    def is_over(self, waited: float) -> bool:
        """Whether a frame that was waited for ``waited`` seconds is a new one."""
        return waited >= self._gap or time.monotonic() >= self._until


def error_text(exc: Exception) -> str:
    """The text of an error, without the place in OpenCV's sources that OpenCV puts before it."""
    lines = str(exc).strip().splitlines()
    return lines[0].rpartition("error: ")[2] if lines else type(exc).__name__
