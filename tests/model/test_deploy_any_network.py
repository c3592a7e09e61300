"""The deploy graph around any network: padding, one channel, and the crop, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcn_deploy.model.deploy import (
    DeployModel,
    crop_by_index,
    crop_by_slice,
    reference_labels,
    reference_logits,
)
from fcn_deploy.model.user import ModuleOptions, UserNetwork
from fcn_deploy.spec import ModelSpec

ALL = ("labels", "confidence", "logits")
MEAN, STD = (90.5, 101.25, 117.0), (51.0, 57.0, 61.5)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))


def spec_of(network: UserNetwork, **fields: Any) -> ModelSpec:
    return ModelSpec(
        classes=tuple(f"class {i}" for i in range(network.num_classes)),
        architecture=network.architecture,
        **{"mean": MEAN, "std": STD, "outputs": ALL, **fields},
    )


def frames_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Random uint8 ``[N, H, W, 3]`` in B, G, R."""
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def by_hand(module: nn.Module, frames: np.ndarray, multiple: int) -> np.ndarray:
    """Logits of a module that reads R, G, B: prepared and padded by numpy, cropped behind it."""
    prepared = (frames.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    height, width = frames.shape[1:3]
    padded = np.zeros(
        (len(frames), -(-height // multiple) * multiple, -(-width // multiple) * multiple, 3), np.float32
    )
    padded[:, :height, :width] = prepared
    planes = torch.from_numpy(padded[..., ::-1].transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return module.eval()(planes)[..., :height, :width].numpy()


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def padded(nets) -> UserNetwork:
    return UserNetwork(nets.UNet(3), ModuleOptions(size_multiple=8))


@settings(max_examples=25)
@given(
    shape=sizes, crop=st.sampled_from([crop_by_slice, crop_by_index]), order=st.sampled_from(["bgr", "rgb"])
)
def test_a_padded_network_answers_as_numpy_pads_it(padded, shape, crop, order: str) -> None:
    frames = frames_of(shape)
    expected = by_hand(padded.module, frames, 8)
    handed = frames if order == "bgr" else np.ascontiguousarray(frames[..., ::-1])
    spec = spec_of(padded, color_order=order)
    with torch.inference_mode():
        answers = DeployModel(padded, spec, crop=crop)(torch.from_numpy(handed))
    labels, confidence, logits = (answer.numpy() for answer in answers)
    assert (labels.dtype, labels.shape, confidence.shape) == (np.uint8, shape, shape)
    assert logits.shape == (shape[0], 3, *shape[1:])
    assert close(logits, expected)
    assert close(reference_logits(padded, spec, handed), expected)
    np.testing.assert_array_equal(labels, logits.argmax(1))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(confidence, 1 / shares.sum(1), rtol=1e-5)


@settings(max_examples=10)
@given(shape=sizes)
def test_labels_that_are_cropped_late_are_those_of_cropped_logits(padded, shape) -> None:
    frames = torch.from_numpy(frames_of(shape))
    with torch.inference_mode():
        (late,) = DeployModel(padded, spec_of(padded, outputs=("labels",)))(frames)
        early = DeployModel(padded, spec_of(padded))(frames)[0]
    assert torch.equal(late, early)
    np.testing.assert_array_equal(late.numpy(), reference_labels(padded, spec_of(padded), frames.numpy()))


def test_frames_that_fit_are_not_padded(padded) -> None:
    deploy = DeployModel(padded, spec_of(padded))
    prepared = torch.rand(1, 3, 16, 24)
    assert torch.equal(deploy.padded(prepared), prepared)
    assert deploy.padded(torch.rand(1, 3, 17, 23)).shape == (1, 3, 24, 24)


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.6])
def test_one_channel_is_class_1_above_the_threshold(nets, threshold: float) -> None:
    network = UserNetwork(nets.Plain(1), ModuleOptions(threshold=threshold))
    spec = spec_of(network, threshold=threshold)
    frames = frames_of((2, 33, 41))
    with torch.inference_mode():
        labels, confidence, _ = (a.numpy() for a in DeployModel(network, spec)(torch.from_numpy(frames)))
    logit = by_hand(network.module, frames, 1)[:, 0].astype(np.float64)
    share = 1 / (1 + np.exp(-logit))
    sure = np.abs(share - threshold) > 1e-6
    assert sure.mean() > 0.99 and 0 < labels.mean() < 1, "both classes are there"
    np.testing.assert_array_equal(labels[sure], (share > threshold)[sure])
    np.testing.assert_allclose(confidence, np.where(labels == 1, share, 1 - share), atol=1e-5)


def test_without_a_threshold_it_is_a_half(nets) -> None:
    network = UserNetwork(nets.Plain(1), ModuleOptions())
    assert (network.threshold, network.num_classes) == (0.5, 2)


def test_a_network_of_bgr_frames_reads_them_as_they_come(nets) -> None:
    module = nets.Plain()
    network = UserNetwork(module, ModuleOptions(channel_order="bgr"))
    frames = frames_of((1, 9, 11))
    with torch.inference_mode():
        logits = DeployModel(network, spec_of(network))(torch.from_numpy(frames))[2].numpy()
    turned = by_hand(module, frames, 1)
    prepared = (frames.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(prepared.transpose(0, 3, 1, 2).copy())).numpy()
    assert close(logits, expected)
    assert not close(logits, turned)


def test_the_reference_leaves_the_network_as_it_was(nets) -> None:
    network = UserNetwork(nets.Plain(), ModuleOptions()).train()
    first = reference_logits(network, spec_of(network), frames_of((1, 9, 9)))
    assert network.training
    assert close(first, reference_logits(network, spec_of(network), frames_of((1, 9, 9))))


def test_the_reference_in_float64(nets) -> None:
    network = UserNetwork(nets.Plain(), ModuleOptions()).double()
    assert reference_logits(network, spec_of(network), frames_of((1, 9, 9))).dtype == np.float64
