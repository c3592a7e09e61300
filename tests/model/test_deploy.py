"""The deploy graph answers as the plain module does, whatever it was rewritten into."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.model.deploy import DeployModel, reference_labels, reference_logits
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s
from fcn_deploy.model.network import NO_REWRITES, Rewrites
from fcn_deploy.spec import CAFFE_MEAN_BGR, ModelSpec

MakeModel = Callable[..., FCN8s]

TOLERANCE = 1e-5
"""Largest difference in float32, as a share of the largest logit."""

SIZES = ((1, 1), (1, 33), (33, 1), (31, 33), (32, 64), (97, 131), (121, 90))
ALL = ("labels", "confidence", "logits")
REWRITES = {
    "none": NO_REWRITES,
    "fold_input": Rewrites(fold_input=True, resize_upscore8=False, crop_labels=False),
    "resize_upscore8": Rewrites(fold_input=False, resize_upscore8=True, crop_labels=False),
    "crop_labels": Rewrites(fold_input=False, resize_upscore8=False, crop_labels=True),
    "all": Rewrites(),
}
CAFFE: dict[str, Any] = {"mean": CAFFE_MEAN_BGR, "std": (1.0, 1.0, 1.0)}
TORCHVISION: dict[str, Any] = {"mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)}


def spec_for(model: FCN8s, **changes: Any) -> ModelSpec:
    return ModelSpec(
        classes=tuple(f"class {i}" for i in range(model.num_classes)),
        architecture=model.architecture,
        **changes,
    )


def frames_of(height: int, width: int, batch: int = 1, seed: int = 0) -> np.ndarray:
    """uint8 [N, H, W, 3] with both ends of the range in it."""
    rng = np.random.default_rng((seed, height, width))
    frames = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
    frames[:, 0, 0], frames[:, -1, -1] = 0, 255
    return frames


def run(deploy: DeployModel, images: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        answers = deploy(torch.from_numpy(np.ascontiguousarray(images)))
    return dict(zip(deploy.outputs, (answer.numpy() for answer in answers), strict=True))


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a share of the largest value wanted."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def assert_labels(labels: np.ndarray, logits: np.ndarray) -> None:
    """The label is the class with the largest logit; where two tie, either of them."""
    assert labels.dtype == np.uint8 and labels.shape == (len(logits), *logits.shape[2:])
    chosen = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)[:, 0]
    assert (logits.max(axis=1) - chosen).max() <= TOLERANCE * np.abs(logits).max()


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rewrites", REWRITES)
@pytest.mark.parametrize("learned_upscore", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_rewrite_equals_the_plain_module(
    variant: str, learned_upscore: bool, rewrites: str, make_model: MakeModel
) -> None:
    model = make_model(variant, learned_upscore=learned_upscore)
    spec = spec_for(model, color_order="rgb", **TORCHVISION)
    labels_only = DeployModel(model, spec, rewrites=REWRITES[rewrites])
    with_logits = DeployModel(model, spec, ("logits", "labels"), REWRITES[rewrites])
    for height, width in SIZES:
        images = frames_of(height, width)
        wanted = reference_logits(model, spec, images)
        found = run(with_logits, images)
        assert difference(found["logits"], wanted) < TOLERANCE, f"{height}x{width}"
        assert_labels(found["labels"], wanted)
        assert_labels(run(labels_only, images)["labels"], wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rewrites_hold_at_a_large_size(variant: str, make_model: MakeModel) -> None:
    model = make_model(variant, width=1, fc_channels=4)
    spec = spec_for(model)
    images = frames_of(375, 501)
    wanted = reference_logits(model, spec, images)
    assert difference(run(DeployModel(model, spec, ALL), images)["logits"], wanted) < TOLERANCE
    assert_labels(run(DeployModel(model, spec), images)["labels"], wanted)


@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    rewrites=st.builds(Rewrites, st.booleans(), st.booleans(), st.booleans()),
    color_order=st.sampled_from(["bgr", "rgb"]),
    statistics=st.sampled_from([CAFFE, TORCHVISION]),
    outputs=st.sampled_from([("labels",), ("labels", "confidence"), ("confidence", "logits", "labels")]),
    learned_upscore=st.booleans(),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_any_frame_is_answered_as_by_the_reference(
    variant: str,
    rewrites: Rewrites,
    color_order: str,
    statistics: dict[str, Any],
    outputs: tuple[str, ...],
    learned_upscore: bool,
    height: int,
    width: int,
    batch: int,
    seed: int,
    make_model: MakeModel,
) -> None:
    model = make_model(variant, width=2, learned_upscore=learned_upscore, seed=seed)
    spec = spec_for(model, color_order=color_order, **statistics)
    images = frames_of(height, width, batch, seed)
    wanted = reference_logits(model, spec, images)
    found = run(DeployModel(model, spec, outputs, rewrites), images)
    assert tuple(found) == outputs
    assert_labels(found["labels"], wanted)
    if "logits" in outputs:
        assert difference(found["logits"], wanted) < TOLERANCE
    if "confidence" in outputs:
        np.testing.assert_allclose(found["confidence"], softmax(wanted).max(axis=1), atol=2e-3)


@pytest.mark.parametrize("color_order", ["bgr", "rgb"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_as_the_second_implementation_from_the_frame_on(
    variant: str, color_order: str, make_model: MakeModel, reference: ModuleType
) -> None:
    """Preprocessing included: nothing here is shared with the code under test."""
    model = make_model(variant)
    mean, std = (90.5, 101.25, 117.0), (51.0, 57.0, 61.5)
    spec = spec_for(model, color_order=color_order, mean=mean, std=std)
    image = frames_of(35, 46)[0]

    channels = "bgr" if color_order == "bgr" else "rgb"
    normalised = np.stack(
        [
            (image[..., channels.index(name)].astype(np.float64) - mean[i]) / std[i]
            for i, name in enumerate("bgr")
        ]
    )
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    wanted = reference.logits(normalised, weights, variant)[None]

    found = run(DeployModel(model, spec, ALL), image[None])
    assert difference(found["logits"], wanted) < TOLERANCE
    assert_labels(found["labels"], wanted)
    np.testing.assert_allclose(found["confidence"], softmax(wanted).max(axis=1), atol=1e-4)
    assert difference(reference_logits(model, spec, image[None]), wanted) < TOLERANCE


@pytest.mark.parametrize("rewrites", REWRITES)
def test_a_flipped_frame_under_the_other_colour_order_is_the_same(
    rewrites: str, make_model: MakeModel
) -> None:
    model, images = make_model("fcn8s"), frames_of(29, 41)
    answers = {
        order: run(DeployModel(model, spec_for(model, color_order=order), ALL, REWRITES[rewrites]), shown)
        for order, shown in (("bgr", images), ("rgb", images[..., ::-1]))
    }
    assert difference(answers["rgb"]["logits"], answers["bgr"]["logits"]) < TOLERANCE
    assert_labels(answers["rgb"]["labels"], answers["bgr"]["logits"])
    mixed = run(DeployModel(model, spec_for(model, color_order="rgb"), ALL, REWRITES[rewrites]), images)
    assert difference(mixed["logits"], answers["bgr"]["logits"]) > 100 * TOLERANCE


@pytest.mark.parametrize("rewrites", REWRITES)
def test_mean_and_std_are_honoured(rewrites: str, make_model: MakeModel) -> None:
    """A frame made brighter, and a mean raised by as much, are the same frame; so with contrast."""
    model = make_model("fcn8s", seed=4)
    images = frames_of(30, 34) // 4 + 20

    def logits(shown: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
        spec = spec_for(model, mean=mean, std=std)
        return run(DeployModel(model, spec, ALL, REWRITES[rewrites]), shown)["logits"]

    plain = logits(images, (40.0, 50.0, 60.0), (3.0, 4.0, 5.0))
    assert difference(logits(images + 7, (47.0, 57.0, 67.0), (3.0, 4.0, 5.0)), plain) < TOLERANCE
    assert difference(logits(images * 2, (80.0, 100.0, 120.0), (6.0, 8.0, 10.0)), plain) < TOLERANCE
    for mean, std in (
        ((60.0, 50.0, 40.0), (3.0, 4.0, 5.0)),
        ((40.0, 50.0, 60.0), (5.0, 4.0, 3.0)),
        ((40.0, 50.0, 61.0), (3.0, 4.0, 5.0)),
    ):
        assert difference(logits(images, mean, std), plain) > 100 * TOLERANCE


@pytest.mark.parametrize("planted", ["a pixel further", "a cell further", "mean before the padding"])
def test_comparison_sees_a_planted_bug(planted: str, make_model: MakeModel) -> None:
    model, images = make_model("fcn8s"), frames_of(37, 45)
    spec = spec_for(model)
    deploy = DeployModel(model, spec, ALL)
    wanted = reference_logits(model, spec, images)
    assert difference(run(deploy, images)["logits"], wanted) < TOLERANCE
    right = deploy.model.logits_to_crop
    if planted == "a pixel further":
        deploy.model.logits_to_crop = lambda *given: (right(*given)[0], right(*given)[1] + 1)
    elif planted == "a cell further":
        deploy.model.logits_to_crop = lambda *given: (
            right(*given)[0].roll((-8, -8), (2, 3)),
            right(*given)[1],
        )
    else:  # folded into the bias of conv1_1, as is exact only where nothing is padded
        with torch.no_grad():
            weight = deploy.model.conv1_1.weight
            deploy.model.conv1_1.bias -= (weight.sum((2, 3)) * deploy.mean.reshape(1, 3)).sum(1)
            deploy.mean.zero_()
    assert difference(run(deploy, images)["logits"], wanted) > 100 * TOLERANCE


@pytest.mark.parametrize("late", [False, True], ids=["crop first", "crop last"])
@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-same"])
def test_confidence_is_the_softmax_of_the_winner(variant: str, late: bool, make_model: MakeModel) -> None:
    model = make_model(variant)
    with torch.no_grad():  # logits near each other: probabilities that are neither 0 nor 1
        for layer in (model.score_fr, model.score_pool4, model.score_pool3):
            layer.weight.mul_(0.01)
            layer.bias.mul_(0.01)
    spec, images = spec_for(model), frames_of(33, 50, batch=2)
    deploy = DeployModel(model, spec, ("labels", "confidence"), Rewrites(crop_labels=late))
    found, wanted = run(deploy, images), softmax(reference_logits(model, spec, images))
    assert found["confidence"].dtype == np.float32 and found["confidence"].shape == (2, 33, 50)
    assert wanted.max(axis=1).std() > 0.01
    np.testing.assert_allclose(found["confidence"], wanted.max(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    "outputs", [("labels",), ("logits", "labels"), ("confidence", "labels"), ALL], ids=str
)
def test_outputs_come_as_asked_for(outputs: tuple[str, ...], make_model: MakeModel) -> None:
    model = make_model("fcn8s-same")
    found = run(DeployModel(model, spec_for(model), outputs), frames_of(7, 9, batch=2))
    described = {name: (value.dtype, value.shape) for name, value in found.items()}
    every = {
        "labels": (np.dtype(np.uint8), (2, 7, 9)),
        "confidence": (np.dtype(np.float32), (2, 7, 9)),
        "logits": (np.dtype(np.float32), (2, 5, 7, 9)),
    }
    assert described == {name: every[name] for name in outputs}
    assert tuple(found) == outputs
    spec = spec_for(model, outputs=outputs)
    assert DeployModel(model, spec).outputs == outputs, "the description's own where none are given"


def test_labels_reach_254(make_model: MakeModel) -> None:
    model = make_model("fcn8s-same", num_classes=255, width=1, fc_channels=1)
    with torch.no_grad():
        model.score_fr.weight.zero_()
        model.score_fr.bias.zero_()
        model.score_fr.bias[254] = 1e6
    assert (run(DeployModel(model, spec_for(model)), frames_of(5, 6))["labels"] == 254).all()


def test_a_frame_is_answered_alike_alone_and_in_a_batch(make_model: MakeModel) -> None:
    model = make_model("fcn8s")
    deploy = DeployModel(model, spec_for(model), ALL)
    images = frames_of(19, 23, batch=3)
    together = run(deploy, images)["logits"]
    for i in range(3):
        assert difference(together[i : i + 1], run(deploy, images[i : i + 1])["logits"]) < TOLERANCE
    assert difference(together[:1], together[1:2]) > 100 * TOLERANCE


def test_the_model_that_is_wrapped_is_left_as_it_was(make_model: MakeModel) -> None:
    model = make_model("fcn8s").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deploy = DeployModel(model, spec_for(model, color_order="rgb", **TORCHVISION))
    run(deploy, frames_of(4, 4))
    assert model.training and not deploy.model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_reference_of_a_model_in_training_is_that_of_the_trained_one(make_model: MakeModel) -> None:
    model = make_model("fcn8s-same")
    spec, images = spec_for(model), frames_of(33, 40, batch=2)
    wanted = reference_logits(model, spec, images)
    model.train()
    assert np.array_equal(reference_logits(model, spec, images), wanted), "dropout is off"
    assert model.training
    assert wanted.dtype == np.float32 and wanted.shape == (2, 5, 33, 40)
    labels = reference_labels(model, spec, images)
    assert labels.dtype == np.uint8 and np.array_equal(labels, wanted.argmax(axis=1))


def test_resize_replaces_fixed_bilinear_upscores_alone(make_model: MakeModel) -> None:
    """Learned kernels are no interpolation; the rewrite leaves them to the transposed convolution."""

    def changed(model: FCN8s) -> bool:
        frames = torch.zeros(1, 3, 40, 40)
        return model.logits_to_crop(frames, Rewrites())[1] != model.logits_to_crop(frames, NO_REWRITES)[1]

    learned = make_model("fcn8s", learned_upscore=True)
    assert [changed(model) for model in (make_model("fcn8s"), learned, make_model("fcn8s-same"))] == [
        *(True, False, False)
    ]
