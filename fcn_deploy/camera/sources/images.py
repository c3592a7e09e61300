"""Turns images that OpenCV decoded into frames: three channels, colour order, rotation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.lazy import require

Image = NDArray[np.uint8]


def three_channels(image: Any, color_order: str) -> Image:
    """A decoded image as a frame: grey becomes three channels, transparency is dropped.

    Args:
        image: as ``retrieve`` returns it: BGR, BGRA or grey, uint8.
        color_order: ``bgr`` or ``rgb``.

    Returns:
        uint8 ``[H, W, 3]`` in ``color_order``.

    Raises:
        ValueError: it is empty, of another dtype or of another number of channels.
    """
    if not isinstance(image, np.ndarray) or image.size == 0:
        raise ValueError("an empty frame came")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"a frame of {image.dtype} {list(image.shape)} came, expected uint8 [H, W, 3]; ask for "
            "another pixel format"
        )
    if channels == 3 and color_order == "bgr":
        return image
    cv2 = require("cv2", extra="opencv")
    source = {1: "GRAY", 3: "BGR", 4: "BGRA"}[channels]
    converted: Image = cv2.cvtColor(image, getattr(cv2, f"COLOR_{source}2{color_order.upper()}"))
    return converted


def rotated(image: Image, degrees: int) -> Image:
    """``image`` rotated clockwise by 0, 90, 180 or 270 degrees; 0 returns the image itself."""
    if degrees == 0:
        return image
    cv2 = require("cv2", extra="opencv")
    codes = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    result: Image = cv2.rotate(image, codes[degrees])
    return result
