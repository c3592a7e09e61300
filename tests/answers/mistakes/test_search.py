"""Planted mistakes are named, and nothing is named where none of them was made.

The original is a plain PyTorch network with other settings; its answers are written by the code that the docs
show.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from originals import CAFFE_MEAN

from fcn_deploy.answers.checking import check_graph

IMAGENET = {"mean": (0.406 * 255, 0.456 * 255, 0.485 * 255), "std": (0.225 * 255, 0.224 * 255, 0.229 * 255)}
ORDER = (0, 3, 2, 1, 4, 5, 8, 7, 6, 9, 10)

RARER = {
    "mean order": (
        {"preparation": {"mean": CAFFE_MEAN[::-1]}},
        {"mean"},
        "--trained-on bgr --mean 122.679,116.669,104.007",
    ),
    "another VGG mean": (
        {"preparation": {"mean": (103.939, 116.779, 123.68)}},
        {"mean"},
        "--trained-on bgr --mean 103.939,116.779,123.68",
    ),
    "align_corners by a factor": ({"align_corners": True}, {"align_corners"}, "--model"),
    "resized to a size": ({"to_size": True}, {"upsampling"}, "--model"),
    "transposed convolutions": ({"transposed": True}, {"upsampling"}, "--learned-upscore"),
}
PLANTED = RARER | {
    "BGR for RGB": (
        {"preparation": {"rgb": True}},
        {"color order"},
        "--trained-on rgb --mean 122.679,116.669,104.007",
    ),
    "/255": ({"preparation": {"std": (255,) * 3}}, {"/255"}, "--trained-on bgr --std 255,255,255"),
    "mean": ({"preparation": {"mean": (0, 0, 0)}}, {"mean"}, "--trained-on bgr --mean 0,0,0"),
    "std": (
        {"preparation": {"std": (57.375, 57.12, 58.395)}},
        {"/255", "std"},
        "--trained-on bgr --std 57.375,57.12,58.395",
    ),
    "skip scales": ({"skip_scales": (0.0001, 0.01)}, {"skip scales"}, "--variant fcn8s-atonce"),
    "class order": ({"classes": ORDER}, {"class order"}, "--classes"),
    "ceil_mode": ({"ceil_mode": False, "to_size": True}, {"ceil_mode"}, "--model"),
    "align_corners": ({"align_corners": True, "to_size": True}, {"align_corners"}, "--model"),
    "variant": ({"padding": 100}, {"variant"}, "--variant fcn8s"),
}


def check(bundled, originals):
    graph, spec = bundled
    return check_graph(graph, spec, originals, "model.onnx")


def test_an_original_without_a_mistake_passes_and_nothing_is_looked_for(bundled, write_answers) -> None:
    found = check(bundled, write_answers())
    assert found.passed and found.explanation is None and found.mistakes == ()
    assert found.agreement == 1 and found.logit_error < 1e-5


USUAL = (
    *(
        "BGR for RGB",
        "/255",
        "mean",
        "std",
        "skip scales",
        "class order",
        "ceil_mode",
        "align_corners",
        "variant",
    ),
    *(pytest.param(name, marks=pytest.mark.slow) for name in RARER),
)


@pytest.mark.parametrize("planted", USUAL)
def test_a_planted_mistake_is_named(planted: str, bundled, write_answers) -> None:
    settings, kinds, repair = PLANTED[planted]
    found = check(bundled, write_answers(**settings))
    assert not found.passed
    (mistake,) = found.mistakes
    assert set(mistake.kinds) == kinds
    assert mistake.repair.startswith(repair)
    assert mistake.agreement > 0.999 and mistake.logit_error < 1e-4
    assert mistake.repair in found.finding


@pytest.mark.parametrize("planted", ["class order", pytest.param("align_corners", marks=pytest.mark.slow)])
def test_labels_alone_are_enough(planted: str, bundled, write_answers) -> None:
    settings, kinds, _ = PLANTED[planted]
    found = check(bundled, write_answers(labels_only=True, **settings))
    assert [set(mistake.kinds) for mistake in found.mistakes] == [kinds]


def test_what_the_answers_do_not_tell_apart_is_all_named(bundled, write_answers, street) -> None:
    """In gray frames the three means alone tell red from blue."""
    gray = [np.repeat(frame[..., :1], 3, axis=2) for frame in street]
    found = check(bundled, write_answers(frames=gray, preparation={"rgb": True}))
    assert {mistake.kinds for mistake in found.mistakes} == {("color order",), ("mean",)}
    assert "each of these about the original explains it" in found.finding


def test_a_common_recipe_is_one_mistake(bundled, write_answers) -> None:
    found = check(bundled, write_answers(preparation={"rgb": True, **IMAGENET}))
    (mistake,) = found.mistakes
    assert mistake.kinds == ("color order", "/255", "mean", "std")
    assert mistake.repair == ("--trained-on rgb --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375")


@pytest.mark.slow
def test_two_mistakes_together_are_found(bundled, write_answers) -> None:
    found = check(bundled, write_answers(preparation={"rgb": True}, align_corners=True, to_size=True))
    (mistake,) = found.mistakes
    assert set(mistake.kinds) == {"align_corners", "color order"}


@pytest.mark.slow
def test_other_weights_are_explained_by_nothing(bundled, write_answers, weights) -> None:
    """Such as the checkpoint of another epoch."""
    torch.manual_seed(0)
    noisy = {
        name: value * (1 + 0.05 * torch.randn(value.shape))
        for name, value in weights.items()
        if "upscore" not in name
    }
    found = check(bundled, write_answers(weights=noisy))
    assert not found.passed and found.mistakes == ()
    assert "none of the usual mistakes explains it" in found.finding
    assert found.explanation.tried > 40
