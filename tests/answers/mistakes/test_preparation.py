"""A frame that stands for another preparation makes the graph see what the original's network sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.answers.mistakes.preparation import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TriedPreparation,
    preparations,
)
from fcn_deploy.spec import Architecture, ModelSpec

triples = st.tuples(*[st.floats(-300, 300)] * 3)
scales = st.tuples(*[st.floats(0.1, 300)] * 3)
FRAME = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
TORCHVISION = {
    "mean": tuple(255 * value for value in IMAGENET_MEAN),
    "std": tuple(255 * value for value in IMAGENET_STD),
}


def spec(**changes: object) -> ModelSpec:
    return ModelSpec(classes=("a", "b"), architecture=Architecture("any"), **changes)


def blue_green_red(frame: np.ndarray, order: str) -> np.ndarray:
    return frame[..., ::-1] if order == "rgb" else frame


@given(triples, scales, triples, scales, st.booleans(), st.sampled_from(("bgr", "rgb")))
def test_our_preparation_of_the_frame_is_the_originals_of_the_image(
    mean: tuple, std: tuple, own_mean: tuple, own_std: tuple, swapped: bool, order: str
) -> None:
    own = spec(mean=own_mean, std=own_std, color_order=order)
    frame = TriedPreparation((), swapped, mean, std, "").applied(FRAME, own)
    seen = (blue_green_red(frame, order) - np.array(own_mean)) / np.array(own_std)
    wanted = (blue_green_red(FRAME, order) - np.array(mean)) / np.array(std)
    # In float32, next to a mean of up to 300.
    tolerance = 1e-6 * (np.abs(frame).max() + 300) / np.array(own_std)
    assert (np.abs(seen - (wanted[..., ::-1] if swapped else wanted)) <= tolerance).all()


@pytest.mark.parametrize("own", [{}, TORCHVISION, {"mean": (0, 0, 0), "std": (255, 255, 255)}], ids=str)
def test_none_is_the_artefacts_own_and_none_is_there_twice(own: dict[str, tuple]) -> None:
    described = spec(**own)
    found = preparations(described)
    numbers = {(one.swapped, *np.round((*one.mean, *one.std), 4)) for one in found}
    assert len(numbers) == len(found) > 20
    assert (False, *np.round((*described.mean, *described.std), 4)) not in numbers
    assert all(one.kinds and one.repair(described) for one in found)


def test_the_kinds_say_what_differs() -> None:
    described = spec(**TORCHVISION)
    by_words = {one.words: one for one in preparations(described)}
    assert by_words["exchanges red and blue"].kinds == ("color order",)
    assert by_words["does not divide frames by 255 before the mean is subtracted"].kinds == ("/255",)
    assert by_words["subtracts no mean"].kinds == ("mean",)
    assert by_words["divides by no std"].kinds == ("std",)
    assert by_words["takes 0..255 minus Caffe's ImageNet mean"].kinds == ("/255", "mean", "std")


def test_the_repair_names_options_of_export_in_the_channel_order_of_the_training() -> None:
    swap = next(one for one in preparations(spec()) if one.kinds == ("color order",))
    assert swap.repair(spec()) == "--trained-on rgb --mean 122.679,116.669,104.007"
    trained_on_rgb = spec(provenance=({"kind": "checkpoint", "trained_on": "rgb"},), mean=(1, 2, 3))
    swap = next(one for one in preparations(trained_on_rgb) if one.kinds == ("color order",))
    assert swap.repair(trained_on_rgb) == "--trained-on bgr --mean 1,2,3"
    known = next(
        one for one in preparations(spec()) if one.words == "takes 0..1 with ImageNet's mean and std"
    )
    wanted = "--trained-on bgr --mean 103.53,116.28,123.675 --std 57.375,57.12,58.395"
    assert known.repair(spec()) == wanted
