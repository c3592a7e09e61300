"""One connection to a live stream: its images until it is lost, and why it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any, final

from fcn_deploy.camera.sources.images import Image, three_channels
from fcn_deploy.lazy import require

ENDED = "the stream ended"
"""Why a connection is over that gives no more frames without a complaint."""


_LONGEST_BACKLOG = 1.0
"""Seconds for which old frames are skipped after opening."""


_FAILURES = 30
"""Failed reads in a row that are the end: OpenCV tells a packet that cannot be decoded, and the end of
the stream, in the same way."""


@final
class Connection:
    """Reads an opened capture.

    Args:
        capture: an opened ``cv2.VideoCapture``, or what looks like one.
        color_order: ``bgr`` or ``rgb``: of the images that it gives.
        patience: seconds without a frame, or with broken frames alone, after which it is lost.
        skip_backlog: whether frames that gathered while it was being opened are passed over. They are
            old, and come without a wait; the first one that has to be waited for is new.
    """

    def __init__(self, capture: Any, color_order: str, patience: float, *, skip_backlog: bool) -> None:
        self.capture = capture
        self.lost = ""
        """Why it gives no more images; empty while it does."""
        self._color_order, self._patience = color_order, patience
        self._backlog = _Backlog(capture) if skip_backlog else None
        self._failures = 0
        self._broken_since: float | None = None

    def images(self, stopping: threading.Event) -> Generator[tuple[Image, float], None, None]:
        """Images, uint8 ``[H, W, 3]``, with the ``time.monotonic()`` each came at, until it is lost.

        Where it ends while its backlog is being skipped, the last image of that is given.
        """
        skipped: tuple[Image, float] | None = None
        while not stopping.is_set():
            begun = time.monotonic()
            taken = self._take()
            waited = (time.monotonic() if taken is None else taken[1]) - begun
            # FFmpeg gives what its decoder still holds when time is up, and no more after that.
            if waited >= self._patience:
                self.lost = f"no frame came for {waited:.1f} s"
            if self.lost:
                break
            if taken is None:
                continue
            if self._backlog is not None and not self._backlog.is_over(waited):
                skipped = taken
                continue
            self._backlog = skipped = None
            yield taken
        if skipped is not None:
            yield skipped

    def _take(self) -> tuple[Image, float] | None:
        """The next image and when it came; None where it cannot be used, or there is none."""
        error = require("cv2", extra="opencv").error
        try:
            grabbed = self.capture.grab()
        except error as exc:
            self.lost = f"OpenCV failed ({complaint(exc)})"
            return None
        came = time.monotonic()
        if not grabbed:
            self._failures += 1
            if self._failures >= _FAILURES:
                self.lost = ENDED
            return None
        self._failures = 0
        try:
            image = three_channels(self.capture.retrieve()[1], self._color_order)
        except (ValueError, error) as exc:
            self._broken(complaint(exc), came)
            return None
        self._broken_since = None
        return image, came

    def _broken(self, problem: str, now: float) -> None:
        """A frame that cannot be used; too many seconds of them are a loss."""
        if self._broken_since is None:
            self._broken_since = now
        elif now - self._broken_since >= self._patience:
            self.lost = f"for {now - self._broken_since:.1f} s no frame could be used: {problem}"


class _Backlog:
    """Tells frames that had gathered from the first one that had to be waited for."""

    def __init__(self, capture: Any) -> None:
        fps = capture.get(require("cv2", extra="opencv").CAP_PROP_FPS)
        self._gap = 0.25 / (fps if 1 <= fps <= 1000 else 30)
        self._until = time.monotonic() + _LONGEST_BACKLOG

    def is_over(self, waited: float) -> bool:
        """Whether a frame that took ``waited`` seconds to come is a new one."""
        return waited >= self._gap or time.monotonic() >= self._until


def complaint(exc: Exception) -> str:
    """What OpenCV complains of, without the place in its sources."""
    lines = str(exc).strip().splitlines()
    return lines[0].rpartition("error: ")[2] if lines else type(exc).__name__
