"""GStreamer pipelines: the one of a Jetson's CSI camera, and a check of the user's own."""

from __future__ import annotations

import re
from fractions import Fraction

from fcn_deploy.camera.sources.addresses import redacted
from fcn_deploy.errors import UsageError

CSI_SIZE = (720, 1280)
"""Height and width where none is asked for: a mode that every common sensor has."""

CSI_FPS = 30.0

APPSINK = "appsink drop=true max-buffers=1 sync=false"
"""Passes frames to OpenCV and keeps only the newest, so that no lag builds up in GStreamer."""

_FLIP = {0: 0, 90: 3, 180: 2, 270: 1}
"""Degrees clockwise -> nvvidconv's flip-method, which counts its quarter turns the other way."""


def csi_pipeline(
    sensor: int, size: tuple[int, int] | None = None, fps: float | None = None, rotate: int = 0
) -> str:
    """The pipeline of a camera on a Jetson's CSI connector; the ISP scales, rotates and converts.

    Args:
        sensor: which one, from 0.
        size: height and width as the sensor captures them, before rotation.
        fps: frames a second.
        rotate: degrees clockwise: 0, 90, 180 or 270.

    Returns:
        A pipeline that gives BGR frames, uint8 ``[H, W, 3]``, to OpenCV.
    """
    height, width = size or CSI_SIZE
    rate = Fraction(fps or CSI_FPS).limit_denominator(1001)
    rotated = (width, height) if rotate in (90, 270) else (height, width)
    return " ! ".join(
        (
            f"nvarguscamerasrc sensor-id={sensor}",
            f"video/x-raw(memory:NVMM), width={width}, height={height}, "
            f"framerate={rate.numerator}/{rate.denominator}",
            f"nvvidconv flip-method={_FLIP[rotate]}",
            f"video/x-raw, width={rotated[1]}, height={rotated[0]}, format=BGRx",
            "videoconvert",
            "video/x-raw, format=BGR",
            APPSINK,
        )
    )


def checked_pipeline(text: str) -> str:
    """The user's pipeline, unchanged.

    Raises:
        UsageError: it has no ``appsink``, so OpenCV would get no frame.
    """
    if not re.search(r"!\s*appsink\b", text):
        raise UsageError(f"the pipeline {redacted(text)!r} gives no frames; end it with: ! {APPSINK}")
    return text
