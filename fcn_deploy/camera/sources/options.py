"""Options of sources: what to ask of a camera, how to reconnect, timeouts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fcn_deploy.errors import UsageError

PACES = ("fast", "real-time")

TRANSPORTS = ("tcp", "udp")

ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source; those that do not apply to its kind are ignored.

    Raises:
        UsageError: a value is outside its range.
    """

    size: tuple[int, int] | None = None
    """Height and width asked of a camera, before rotation; None leaves it to the camera."""
    fps: float | None = None
    """Frames a second asked of a camera; for images at real-time pace, their rate."""
    pixel_format: str | None = None
    """FOURCC asked of a V4L2 device, such as ``MJPG`` or ``YUYV``."""
    rotate: int = 0
    """Degrees clockwise, 0, 90, 180 or 270, that each frame is rotated by."""
    pace: str = "fast"
    """Of files: ``fast``, as fast as they can be read, or ``real-time``, at the rate they were recorded
    with, which makes them live."""
    reconnect: bool = True
    """Whether to try again when a live stream is lost or cannot be opened."""
    first_wait: float = 0.5
    """Seconds before the first attempt to reconnect; the wait doubles with each attempt."""
    longest_wait: float = 30.0
    """The longest wait before an attempt, in seconds."""
    give_up: float | None = None
    """Seconds without a connection after which a live stream ends with an error; None never gives up."""
    open_timeout: float = 10.0
    """Seconds that opening a stream may take."""
    read_timeout: float = 5.0
    """Seconds without a frame after which a stream counts as lost."""
    transport: str = "tcp"
    """Of RTSP: ``tcp``, or ``udp``, which has less delay and may lose packets."""
    decoder_threads: int = 1
    """For a live stream; each thread after the first delays FFmpeg's decoder by one frame."""
    live: bool | None = None
    """Whether frames come in real time, so that late ones may be dropped; None decides by the kind of
    source."""

    def __post_init__(self) -> None:
        _one_of("rotate", self.rotate, ROTATIONS)
        _one_of("pace", self.pace, PACES)
        _one_of("transport", self.transport, TRANSPORTS)
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UsageError(f"size must be a height and a width of at least 1, not {self.size}")
        if self.pixel_format is not None and len(self.pixel_format) != 4:
            raise UsageError(f"pixel_format must be four characters such as MJPG, not {self.pixel_format!r}")
        if self.decoder_threads < 1:
            raise UsageError(f"decoder_threads must be at least 1, not {self.decoder_threads}")
        for name in ("fps", "first_wait", "longest_wait", "give_up", "open_timeout", "read_timeout"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be more than 0, not {value}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")
