"""Mean, std and scale as training code has them -> as the description holds them, by hand calculation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.errors import UsageError
from fcn_deploy.export.preparation import (
    check_statistics,
    order_warning,
    to_spec,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE = (104.007, 116.669, 122.679)
numbers = st.tuples(*[st.floats(0.01, 1.0)] * 3)


def test_imagenet_of_rgb_frames_of_0_to_1() -> None:
    found = to_spec(IMAGENET_MEAN, IMAGENET_STD, 1 / 255, "rgb")
    assert found["mean"] == pytest.approx((103.53, 116.28, 123.675))
    assert found["std"] == pytest.approx((57.375, 57.12, 58.395))


def test_caffe_of_bgr_frames_of_0_to_255() -> None:
    assert to_spec(CAFFE, None, None, "bgr") == {"mean": CAFFE}
    assert to_spec(CAFFE, (1, 2, 3), None, "rgb") == {"mean": CAFFE[::-1], "std": (3, 2, 1)}


def test_a_scale_alone_is_a_division() -> None:
    assert to_spec(None, None, 1 / 255, "rgb") == {"std": pytest.approx((255, 255, 255))}
    assert to_spec(None, None, None, "rgb") == {}
    assert to_spec(None, None, 1, "rgb") == {"std": (1, 1, 1)}


@given(mean=numbers, std=numbers, scale=st.floats(1e-3, 0.01), order=st.sampled_from(["bgr", "rgb"]))
def test_both_ways_of_writing_it_prepare_a_frame_alike(mean, std, scale: float, order: str) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.float64)  # B, G, R
    found = to_spec(mean, std, scale, order)
    trained = (frame if order == "bgr" else frame[..., ::-1]) * scale
    expected = (trained - np.array(mean)) / np.array(std)
    prepared = (frame - np.array(found["mean"])) / np.array(found["std"])
    np.testing.assert_allclose(prepared if order == "bgr" else prepared[..., ::-1], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("mean", "std", "scale", "told"),
    [
        (IMAGENET_MEAN, IMAGENET_STD, None, r"mean 0\.485, 0\.456, 0\.406 is of frames of 0 to 1.*1/255"),
        ((0.5, 0.5, 0.5), None, None, "add --scale 1/255"),
        ((123.675, 116.28, 103.53), None, 1 / 255, "is of frames of 0 to 255, and --scale 0.003922 makes"),
        ((1, 2), None, None, r"mean is three numbers, one a channel, not \(1, 2\)"),
        (0.5, None, None, "mean is three numbers, one a channel, not 0.5"),
        ("104", None, None, "mean is three numbers"),
        ((1, 2, math.nan), None, None, "mean is three numbers"),
        (None, (1, 0, 1), None, "std is three numbers above 0"),
        (None, (1, 2, math.inf), None, "std is three numbers, one a channel"),
        (None, None, 0, "scale must be a number above 0, such as 1/255, not 0"),
        (None, None, -1, "scale must be"),
        (None, None, math.nan, "scale must be"),
        (None, None, "1/255", "scale must be a number above 0, such as 1/255, not '1/255'"),
        (None, None, True, "scale must be"),
    ],
)
def test_numbers_that_cannot_be_meant(mean: Any, std: Any, scale: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        to_spec(mean, std, scale, "rgb")
    with pytest.raises(UsageError, match=told):
        check_statistics(mean, std, scale)


def test_a_scale_of_1_says_that_it_is_meant_so() -> None:
    assert to_spec((0.5, 0.5, 0.5), None, 1, "rgb")["mean"] == (0.5, 0.5, 0.5)
    check_statistics((0, 0, 0), (1, 1, 1), None)
    check_statistics(np.array([104.0, 116.7, 122.7]), None, None)


IN_255 = tuple(255 * value for value in IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("mean", "scale", "trained_on", "other"),
    [
        (IMAGENET_MEAN[::-1], 1 / 255, "rgb", "bgr"),
        (IMAGENET_MEAN, 1 / 255, "bgr", "rgb"),
        (IN_255[::-1], None, "rgb", "bgr"),
        ((104, 116.3, 123.7), None, "rgb", None),  # Caffe's, which is near
        (IMAGENET_MEAN, 1 / 255, "rgb", None),
        (IN_255, None, "rgb", None),
        ((0.5, 0.5, 0.5), 1 / 255, "rgb", None),
        (None, None, "rgb", None),
    ],
)
def test_imagenets_mean_in_the_other_order_is_a_warning(mean, scale, trained_on: str, other) -> None:
    told = order_warning(mean, scale, trained_on)
    assert len(told) == (other is not None)
    assert all(f"ImageNet's in the order {other}" in sentence for sentence in told)
