"""The built-in class sets, CamVid and PASCAL VOC, and what stands in where nothing is known."""

from __future__ import annotations

import colorsys
from typing import NamedTuple

Color = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""


class ClassSet(NamedTuple):
    """Names, colours and the ignore label of one set of classes."""

    names: tuple[str, ...]
    """Names by class id."""
    palette: tuple[Color, ...] = ()
    """One colour a class, or none at all."""
    ignore_label: int | None = None
    """Label of pixels that are not scored; None where the source does not say."""


def neutral_names(num_classes: int) -> tuple[str, ...]:
    """``class 0``, ``class 1`` and so on, for classes whose names are not known."""
    return tuple(f"class {i}" for i in range(num_classes))


def default_palette(num_classes: int) -> tuple[Color, ...]:
    """PASCAL VOC's colours for 21 classes, else generated ones.

    Generated colours are hues a golden section apart, in two brightnesses.
    """
    if num_classes == len(VOC_CLASSES):
        return voc_palette(num_classes)
    palette = []
    for i in range(num_classes):
        hue = (i * 0.618033988749895) % 1.0
        r, g, b = colorsys.hsv_to_rgb(hue, 0.65, 0.95 if i % 2 == 0 else 0.7)
        palette.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(palette)


def voc_palette(num_classes: int) -> tuple[Color, ...]:
    """The colour map of PASCAL VOC, for 1 to 256 classes.

    As ``VOClabelcolormap`` of the VOC devkit computes it: the bits of a class id are dealt out to red,
    green and blue in turn, lowest bits first, and fill each channel from its highest bit down.
    """
    return tuple(_voc_color(i) for i in range(num_classes))


def _voc_color(class_id: int) -> Color:
    red = green = blue = 0
    for place in range(8):
        triple = class_id >> (3 * place)
        red |= (triple & 1) << (7 - place)
        green |= (triple >> 1 & 1) << (7 - place)
        blue |= (triple >> 2 & 1) << (7 - place)
    return red, green, blue


CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)

CAMVID_PALETTE: tuple[Color, ...] = (
    *((128, 160, 208), (120, 52, 48), (208, 196, 128), (110, 72, 132), (216, 124, 176), (96, 136, 40)),
    *((240, 200, 40), (84, 84, 128), (40, 64, 200), (232, 72, 32), (16, 168, 176)),
)

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)

BUILTIN_CLASSES = {
    "camvid": ClassSet(CAMVID_CLASSES, CAMVID_PALETTE, ignore_label=11),
    "voc": ClassSet(VOC_CLASSES, voc_palette(len(VOC_CLASSES)), ignore_label=255),
}
"""Name on the command line (``--classes camvid``) -> the classes."""
