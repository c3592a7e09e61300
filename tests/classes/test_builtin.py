"""Built-in class sets and what stands in where nothing is known."""

from __future__ import annotations

import pytest

from fcn_deploy.classes import (
    BUILTIN_CLASSES,
    CAMVID_PALETTE,
    VOC_CLASSES,
    default_palette,
    neutral_names,
    voc_palette,
)


@pytest.mark.parametrize("name", BUILTIN_CLASSES)
def test_a_built_in_set_has_a_colour_a_class_and_an_ignore_label_beyond_them(name: str) -> None:
    names, palette, ignore_label = BUILTIN_CLASSES[name]
    assert len(names) == len(set(names)) == len(palette) == len(set(palette))
    assert ignore_label >= len(names)


def test_the_colours_of_voc_are_the_devkit_s() -> None:
    """Values as its documentation and its label images have them."""
    palette = dict(zip(VOC_CLASSES, voc_palette(21), strict=True))
    assert [palette[name] for name in ("background", "aeroplane", "bird", "cat", "chair", "tvmonitor")] == [
        *((0, 0, 0), (128, 0, 0), (128, 128, 0), (64, 0, 0), (192, 0, 0), (0, 64, 128)),
    ]
    assert voc_palette(256)[255] == (224, 224, 192), "the border of objects"


def test_voc_colours_are_distinct_up_to_256_classes() -> None:
    assert len(set(voc_palette(256))) == 256


def test_21_classes_get_the_colours_of_voc_and_no_other_number_does() -> None:
    assert default_palette(21) == voc_palette(21)
    for classes in (2, 11, 20, 22, 255):
        palette = default_palette(classes)
        assert len(set(palette)) == classes
        assert palette not in (voc_palette(classes), CAMVID_PALETTE)


def test_neutral_names_are_numbered_from_zero() -> None:
    assert neutral_names(3) == ("class 0", "class 1", "class 2")
