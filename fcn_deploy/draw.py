"""Pictures of results: overlays with a legend, heat maps, a confusion matrix, strips of frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.classes import Color
from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.lazy import require
from fcn_deploy.spec import ModelSpec

Picture = NDArray[np.uint8]

_TEXT_COLOR, _BACKGROUND = (20, 20, 20), (255, 255, 255)

_BLOCK = 1 << 16
"""Pixels that are mixed at a time; an even number."""


def colorize(labels: NDArray[np.uint8], palette: tuple[Color, ...]) -> Picture:
    """Label map -> colours.

    Args:
        labels: uint8 ``[H, W]``.
        palette: R, G, B by class id; ids beyond it, such as 255, become black.

    Returns:
        uint8 ``[H, W, 3]``, R, G, B.
    """
    return np.take(_table(palette), labels, axis=0)


def overlay(
    image: Picture, labels: NDArray[np.uint8], spec: ModelSpec, *, alpha: float = 0.5, legend: bool = True
) -> Picture:
    """A frame with the colours of its labels mixed in, in a new array.

    Args and Raises: as :class:`Overlay` has them.

    Returns:
        uint8 ``[H, W, 3]`` in the frame's colour order.
    """
    return Overlay(alpha, legend=legend)(image, labels, spec)


@final
class Overlay:
    """Draws labels over frames; it reuses its arrays for each frame, so only one thread may use it at a time.

    Args:
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner, where the frame is large enough.

    Raises:
        UsageError: alpha is out of range.
    """

    def __init__(self, alpha: float = 0.5, *, legend: bool = True) -> None:
        if not 0 <= alpha <= 1:
            raise UsageError(f"alpha must be from 0 to 1, not {alpha}")
        self._weight = round(256 * alpha)
        self._legend = legend
        self._drawn: Picture = np.empty((0, 0, 3), np.uint8)
        self._colors = np.empty((_BLOCK // 2, 6), np.uint16)
        self._sums = np.empty(3 * _BLOCK, np.uint16)

    def __call__(self, image: Picture, labels: NDArray[np.uint8], spec: ModelSpec) -> Picture:
        """A frame with the colours of its labels mixed in.

        Args:
            image: uint8 ``[H, W, 3]`` in the spec's colour order.
            labels: uint8 ``[H, W]``.
            spec: class names, palette and colour order.

        Returns:
            uint8 ``[H, W, 3]`` in the same colour order. The next call writes to the same array; copy it
            to keep it.

        Raises:
            SourceError: image and labels differ in size, or one has another dtype or shape.
        """
        if image.shape != (*labels.shape, 3) or image.dtype != np.uint8 or labels.dtype != np.uint8:
            raise SourceError(
                f"a frame must be uint8 [height, width, 3] and its labels uint8 of its size, found "
                f"{image.dtype} {image.shape} and {labels.dtype} {labels.shape}"
            )
        if self._drawn.shape != image.shape:
            self._drawn = np.empty(image.shape, np.uint8)
        self._mix(
            np.ascontiguousarray(image).reshape(-1),
            np.ascontiguousarray(labels).reshape(-1),
            _weighted_pairs(spec.palette, spec.color_order, self._weight),
        )
        if self._legend:
            _add_legend(self._drawn, _legend(spec.classes, spec.palette, spec.color_order))
        return self._drawn

    def _mix(self, image: Picture, labels: NDArray[np.uint8], table: NDArray[np.uint16]) -> None:
        """Mix in integers, two labels for each look-up, in blocks that fit the cache: a fifth of the time
        that floats and whole frames take."""
        drawn = self._drawn.reshape(-1)
        for first in range(0, labels.size, _BLOCK):
            some = labels[first : first + _BLOCK]
            part = slice(3 * first, 3 * (first + some.size))
            pairs = (some if some.size % 2 == 0 else np.append(some, np.uint8(0))).view(np.uint16)
            colors, sums = self._colors[: pairs.size], self._sums[: 3 * some.size]
            # An index of 16 bits cannot be out of range; "clip" alone lets take fill an array.
            np.take(table, pairs, axis=0, out=colors, mode="clip")
            np.multiply(image[part], np.uint16(256 - self._weight), out=sums, dtype=np.uint16)
            sums += colors.reshape(-1)[: sums.size]
            sums >>= 8
            np.copyto(drawn[part], sums, casting="unsafe")


def heat_map(confidence: NDArray[np.float32]) -> Picture:
    """Confidence as colours, from dark (0) to bright (1).

    Args:
        confidence: float32 ``[H, W]``.

    Returns:
        uint8 ``[H, W, 3]``, R, G, B.
    """
    steps = np.clip(confidence * 255, 0, 255).astype(np.uint8)
    ramp = np.linspace(0, 1, 256)
    stops = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
    at = np.linspace(0, 1, len(stops))
    table = np.stack([np.interp(ramp, at, stops[:, c]) for c in range(3)], -1).astype(np.uint8)
    return np.take(table, steps, axis=0)


def confusion_picture(counts: NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """A confusion matrix; each row shows shares of its true class.

    Args:
        counts: int64 ``[classes, classes]``, rows are the truth.
        classes: their names.

    Returns:
        uint8 ``[H, W, 3]``, R, G, B.
    """
    names = [_text(name) for name in classes]
    cell, side = 46, 16 + max(name.width for name in names)
    top = side + 20
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    image, pen, font = _sheet(side + cell * len(classes) + 8, top + cell * len(classes) + 8)
    for row, name in enumerate(names):
        y = top + row * cell
        image.paste(name, (side - 8 - name.width, y + (cell - name.height) // 2))
        for column in range(len(classes)):
            value = float(share[row, column])
            x = side + column * cell
            tint = round(255 - 190 * value)
            fill = (tint, 255 - round(80 * value), tint) if row == column else (255, tint, tint)
            pen.rectangle((x, y, x + cell - 2, y + cell - 2), fill=fill)
            if value >= 0.005:
                pen.text((x + cell / 2, y + cell / 2), f"{value:.2f}", _TEXT_COLOR, font, anchor="mm")
    for column, name in enumerate(names):
        label = name.rotate(90, expand=True)
        image.paste(label, (side + column * cell + cell // 2 - label.width // 2, top - 6 - label.height))
    pen.text((8, 12), "truth in rows, prediction in columns", _TEXT_COLOR, font)
    return np.array(image)


def strip(rows: Sequence[tuple[str, Sequence[Picture]]]) -> Picture:
    """Pictures side by side, a caption over each row.

    Args:
        rows: a caption and pictures, uint8 ``[H, W, 3]`` R, G, B, of one height within the row.

    Returns:
        uint8 ``[H, W, 3]``, R, G, B.

    Raises:
        SourceError: there is no row, or no picture in one.
    """
    if not rows or not all(len(pictures) for _, pictures in rows):
        raise SourceError("there are no frames to draw")
    pillow = require("PIL.Image", extra="cpu")
    lines = [np.concatenate(list(pictures), axis=1) for _, pictures in rows]
    width, gap = max(line.shape[1] for line in lines), 22
    image, pen, font = _sheet(width, sum(line.shape[0] + gap for line in lines))
    y = 0
    for (caption, _), line in zip(rows, lines, strict=True):
        pen.text((6, y + gap / 2), caption, _TEXT_COLOR, font, anchor="lm")
        image.paste(pillow.fromarray(line), (0, y + gap))
        y += line.shape[0] + gap
    return np.array(image)


@lru_cache(maxsize=16)
def _table(palette: tuple[Color, ...]) -> Picture:
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


@lru_cache(maxsize=4)
def _weighted_pairs(palette: tuple[Color, ...], color_order: str, weight: int) -> NDArray[np.uint16]:
    """Two labels, read as one uint16 -> both colours times ``weight``, and a half for rounding.

    Returns:
        uint16 ``[65536, 6]``, 0.8 MB.
    """
    table = _table(palette).astype(np.uint16) * np.uint16(weight) + np.uint16(128)
    ordered = table[:, ::-1] if color_order == "bgr" else table
    pairs = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return ordered[pairs].reshape(-1, 6)


@lru_cache(maxsize=4)
def _legend(classes: tuple[str, ...], palette: tuple[Color, ...], color_order: str) -> Picture:
    """The names of the classes on their colours, one below the other."""
    line, patch = 15, 12
    names = [_text(name) for name in classes]
    image, _, _ = _sheet(patch + 10 + max(name.width for name in names), line * len(classes) + 4)
    for row, (name, color) in enumerate(zip(names, palette, strict=True)):
        y = 2 + row * line
        image.paste(color, (3, y + 1, 3 + patch, y + 1 + patch))
        image.paste(name, (patch + 7, y + (line - name.height) // 2))
    drawn: Picture = np.array(image)
    return drawn if color_order == "rgb" else np.ascontiguousarray(drawn[..., ::-1])


def _add_legend(image: Picture, legend: Picture) -> None:
    """Draw the legend into the lower left corner, unless it would cover most of the frame."""
    height, width = legend.shape[:2]
    if height <= image.shape[0] * 0.7 and width <= image.shape[1] * 0.5:
        corner = image[-height - 4 : -4, 4 : width + 4]
        corner[:] = (corner.astype(np.uint16) * 2 + legend.astype(np.uint16) * 6) >> 3


def _sheet(width: int, height: int) -> tuple[Any, Any, Any]:
    """A white Pillow image, a pen for it and the font."""
    image = require("PIL.Image", extra="cpu").new("RGB", (width, height), _BACKGROUND)
    font = require("PIL.ImageFont", extra="cpu").load_default(11)
    return image, require("PIL.ImageDraw", extra="cpu").Draw(image), font


def _text(text: str) -> Any:
    """A small white Pillow image with one line of text."""
    _, pen, font = _sheet(1, 1)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    image, pen, font = _sheet(max(1, round(right - left) + 2), max(1, round(bottom - top) + 2))
    pen.text((1 - left, 1 - top), text, _TEXT_COLOR, font)
    return image
