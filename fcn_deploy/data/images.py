"""Images and label maps on disk.

Images are decoded by Pillow on every machine, so that an image gives the same bytes everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.classes import Color
from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.files import atomic_output
from fcn_deploy.lazy import require

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")

Image = NDArray[np.uint8]


def check_color_order(color_order: str) -> str:
    """``color_order`` itself.

    Raises:
        UsageError: it is neither ``bgr`` nor ``rgb``.
    """
    if color_order not in ("bgr", "rgb"):
        raise UsageError(f"color_order must be bgr or rgb, not {color_order!r}")
    return color_order


def read_image(path: str | Path, color_order: str = "bgr") -> Image:
    """Decode an image, rotated as its EXIF orientation says.

    Args:
        path: PNG, JPEG, BMP, WebP or TIFF. Grayscale and palette images become three channels,
            transparency is dropped, colours of 16 bits keep their upper 8.
        color_order: ``bgr`` or ``rgb``.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        SourceError: it is missing, damaged, cut off, or grayscale of more than 8 bits.
        UsageError: the colour order is unknown.
    """
    check_color_order(color_order)
    ops = require("PIL.ImageOps", extra="cpu")
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise SourceError(f"{path} has more than 8 bits a pixel ({image.mode}); save it with 8 bits")
        rgb = np.asarray(ops.exif_transpose(image).convert("RGB"))
    return np.ascontiguousarray(rgb[..., ::-1]) if color_order == "bgr" else np.array(rgb)


def read_labels(path: str | Path) -> NDArray[np.uint8]:
    """Decode a label map: 8-bit grayscale or palette image whose value is the class id.

    Returns:
        uint8 ``[H, W]``.

    Raises:
        SourceError: it is missing, damaged, or has colours instead of class ids.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise SourceError(
                f"{path} is no label map: expected one 8-bit channel whose value is the class id, "
                f"found {image.mode}; convert its colours to class ids first"
            )
        labels: NDArray[np.uint8] = np.array(image, np.uint8)
    return labels


def write_labels(path: str | Path, labels: NDArray[np.uint8], palette: tuple[Color, ...] = ()) -> None:
    """Write a label map as a PNG atomically. The palette changes only how viewers show it.

    Args:
        path: the file to write.
        labels: uint8 ``[H, W]``.
        palette: R, G, B by class id; an empty one makes it grayscale.

    Raises:
        UsageError: it cannot be written.
    """
    image = require("PIL.Image", extra="cpu").fromarray(labels)
    if palette:
        flat = [channel for color in palette for channel in color]
        image.putpalette(flat + [0] * (768 - len(flat)))
    with atomic_output(path) as temporary:
        image.save(temporary, format="PNG")


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A decoded Pillow image; each of Pillow's errors becomes a SourceError."""
    pillow = require("PIL.Image", extra="cpu")
    if not Path(path).is_file():
        raise SourceError(f"{path} is not a file; give the path of an image")
    try:
        with warnings.catch_warnings():
            # Odd metadata does not matter here: the pixels can be read.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as image:
                image.load()
                yield image
    except SourceError:
        raise
    except Exception as exc:  # Pillow raises many classes for damaged files
        raise SourceError(
            f"{path} cannot be read as an image ({type(exc).__name__}: {exc}); it is damaged, "
            "cut off or no image"
        ) from exc
