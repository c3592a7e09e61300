"""A time stamp, drawn into frames as large black and white blocks, and read from them again.

Numpy only, because the RTSP server draws with the system's Python. The blocks are 40 bits of milliseconds,
then an 8-bit checksum, in two rows along the top; they are so large that neither H.264 nor JPEG turns black
into white. A frame whose checksum is wrong has no time, rather than a wrong one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITS = 40
_CHECK = 8
_COLUMNS = 24
_ROWS = (_BITS + _CHECK) // _COLUMNS
SMALLEST = (64, 8 * _COLUMNS)
"""Height and width below which the blocks would be too small."""


class Clip:
    """A synthetic grey clip: a gradient, a square that moves over it, and the time on top.

    Args:
        size: height and width, at least :data:`SMALLEST`.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        assert height >= SMALLEST[0] and width >= SMALLEST[1], f"at least {SMALLEST}, not {size}"
        self._gradient = np.broadcast_to(np.linspace(60, 190, width).astype(np.uint8), size)

    def frame(self, seconds: float) -> NDArray[np.uint8]:
        """The picture at a time: uint8 ``[H, W]``, with that time drawn into it."""
        picture = self._gradient.copy()
        height, width = picture.shape
        side = height // 6
        left = int(seconds * width / 4) % (width - side)
        picture[height // 2 : height // 2 + side, left : left + side] = 235
        draw(picture, seconds)
        return picture


def draw(picture: NDArray[np.uint8], seconds: float) -> None:
    """Draw a time into the top of a picture.

    Args:
        picture: uint8 ``[H, W]`` or ``[H, W, 3]``, changed.
        seconds: what ``time.monotonic()`` says.
    """
    value = round(seconds * 1000) % (1 << _BITS)
    word = value << _CHECK | _sum(value)
    bits = [word >> place & 1 for place in reversed(range(_BITS + _CHECK))]
    side = picture.shape[1] // _COLUMNS
    for index, bit in enumerate(bits):
        row, column = divmod(index, _COLUMNS)
        picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = 235 * bit


def read(picture: NDArray[np.uint8]) -> float | None:
    """The time drawn into a picture, in seconds; None where it cannot be read.

    Args:
        picture: uint8 ``[H, W]`` or ``[H, W, 3]``.
    """
    side = picture.shape[1] // _COLUMNS
    grey = picture if picture.ndim == 2 else picture[..., 1]
    if side == 0 or grey.shape[0] < _ROWS * side:
        return None
    blocks = grey[: _ROWS * side, : _COLUMNS * side].reshape(_ROWS, side, _COLUMNS, side)
    inner = slice(side // 4, max(side - side // 4, side // 4 + 1))
    word = 0
    for bit in (blocks[:, inner, :, inner].mean(axis=(1, 3)) > 127).ravel():
        word = word << 1 | int(bit)
    value, check = word >> _CHECK, word & (1 << _CHECK) - 1
    return value / 1000 if check == _sum(value) else None


def _sum(value: int) -> int:
    return (sum(value >> shift & 255 for shift in range(0, _BITS, 8)) + 85) & 255
