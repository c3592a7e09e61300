"""How a source is to be opened: what is asked of a camera, and how long is waited for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fcn_deploy.errors import UsageError

PACES = ("fast", "real-time")


TRANSPORTS = ("tcp", "udp")


ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True)
class SourceOptions:
    """What is asked of a source; what does not apply to its kind is not looked at.

    Raises:
        UsageError: a value is outside its range.
    """

    size: tuple[int, int] | None = None
    """Height and width asked of a camera, before rotation; None leaves it to the camera."""
    fps: float | None = None
    """Frames a second asked of a camera, and those of images at real-time pace."""
    pixel_format: str | None = None
    """FOURCC asked of a V4L2 device, such as ``MJPG`` or ``YUYV``."""
    rotate: int = 0
    """Degrees clockwise, 0, 90, 180 or 270, that each frame is turned by."""
    pace: str = "fast"
    """Files: ``fast`` as they can be read, or ``real-time`` as they were recorded, which makes them
    live."""
    reconnect: bool = True
    """Whether a live stream that is lost, or not there yet, is tried again."""
    first_wait: float = 0.5
    """Seconds before the first new attempt; each one after it waits twice as long."""
    longest_wait: float = 30.0
    """Seconds that no wait exceeds."""
    give_up: float | None = None
    """Seconds without a connection after which a live stream is lost for good; None never gives up."""
    open_timeout: float = 10.0
    """Seconds that opening a stream may take."""
    read_timeout: float = 5.0
    """Seconds without a frame after which a stream counts as lost."""
    transport: str = "tcp"
    """RTSP's: ``tcp``, or ``udp``, which loses packets rather than time."""
    decoder_threads: int = 1
    """Of a live stream; FFmpeg delays by a frame for each thread after the first."""
    live: bool | None = None
    """Whether frames are made in real time; None tells by the kind of source."""

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
