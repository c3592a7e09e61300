"""JPEG encoding by OpenCV or Pillow."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import numpy as np

from fcn_deploy.draw import Picture
from fcn_deploy.lazy import installed, require

_QUALITY = 80


def encode_jpeg(picture: Picture, color_order: str) -> bytes:
    """A picture as a JPEG file.

    Args:
        picture: uint8 ``[H, W, 3]``.
        color_order: ``bgr`` or ``rgb``: of the picture.
    """
    return _encoder()(picture, color_order)


@lru_cache(maxsize=1)
def _encoder() -> Callable[[Picture, str], bytes]:
    """OpenCV where it is installed, because it is faster, else Pillow."""
    return _by_opencv if installed("cv2") else _by_pillow


def _by_opencv(picture: Picture, color_order: str) -> bytes:
    cv2 = require("cv2", extra="opencv")
    ordered = picture if color_order == "bgr" else np.ascontiguousarray(picture[..., ::-1])
    encoded: bytes = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return encoded


def _by_pillow(picture: Picture, color_order: str) -> bytes:
    ordered = picture if color_order == "rgb" else np.ascontiguousarray(picture[..., ::-1])
    buffer = BytesIO()
    require("PIL.Image", extra="cpu").fromarray(ordered).save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()
