"""Class names and colours: built-in sets, defaults, and files that a user has."""

from fcn_deploy.classes.builtin import (
    BUILTIN_CLASSES,
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    VOC_CLASSES,
    ClassSet,
    Color,
    default_palette,
    neutral_names,
    voc_palette,
)
from fcn_deploy.classes.reading import named_classes, read_classes

__all__ = [
    "BUILTIN_CLASSES",
    "CAMVID_CLASSES",
    "CAMVID_PALETTE",
    "VOC_CLASSES",
    "ClassSet",
    "Color",
    "default_palette",
    "named_classes",
    "neutral_names",
    "read_classes",
    "voc_palette",
]
