"""Class names and colours: those of CamVid and PASCAL VOC, and generated ones."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]


def default_palette(num_classes: int) -> tuple[Color, ...]:
    """Distinct R, G, B colours: hues a golden section apart, two brightnesses."""
    palette = []
    for i in range(num_classes):
        hue = (i * 0.618033988749895) % 1.0
        r, g, b = colorsys.hsv_to_rgb(hue, 0.65, 0.95 if i % 2 == 0 else 0.7)
        palette.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(palette)


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


def default_classes(num_classes: int) -> tuple[str, ...]:
    """The usual names for 11 (CamVid) and 21 (PASCAL VOC) classes, else ``class 0`` and so on."""
    if num_classes == len(CAMVID_CLASSES):
        return CAMVID_CLASSES
    if num_classes == len(VOC_CLASSES):
        return VOC_CLASSES
    return tuple(f"class {i}" for i in range(num_classes))
