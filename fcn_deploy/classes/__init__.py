"""Class names and colours: built-in sets and defaults.

Files that a user has are read by :mod:`fcn_deploy.classes.reading`, which is imported where one is read:
every import of the package comes through here.
"""

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

__all__ = [
    "BUILTIN_CLASSES",
    "CAMVID_CLASSES",
    "CAMVID_PALETTE",
    "VOC_CLASSES",
    "ClassSet",
    "Color",
    "default_palette",
    "neutral_names",
    "voc_palette",
]
