"""What a prepared frame can hold is computed, and no frame leaves it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import MEAN_RGB, NETWORKS, STD_RGB

from fcn_deploy.export.graph.intervals import prepared_ranges
from fcn_deploy.testing import onnxruntime_session

HEAD = """
<ir_version: 10, opset_import: ["" : 20]>
g (uint8[n, h, w, 3] image) => (float[n, c, y, x] out)
<float[3,1,1] mean = {100, 110, 120}, float[3,1,1] std = {50, -60, 0.5}, float scale = {0.00392157},
 int64[1] last = {-1}, int64[1] first = {-4}, int64[1] axis = {1}, int64[8] pads = {0,0,0,0,0,0,3,5},
 int64[3] swap = {2, 1, 0}, float edge = {-7}, float[4] twice = {1, 1, 2, 2}>
{
  f = Cast <to = 1> (image)
  p = Transpose <perm = [0, 3, 1, 2]> (f)
  BODY
}
"""

PREPARATIONS = {
    "mean": "out = Sub (p, mean)",
    "mean and std": "a = Sub (p, mean) out = Div (a, std)",
    "scale": "out = Mul (p, scale)",
    "scale on the left": "out = Mul (scale, p)",
    "flip by slice": "a = Slice (p, last, first, axis, last) out = Sub (a, mean)",
    "flip by gather": "a = Gather <axis = 1> (p, swap) out = Sub (a, mean)",
    "flip after the mean": "a = Sub (p, mean) b = Gather <axis = 1> (a, swap) out = Div (b, std)",
    "zeros around": "a = Sub (p, mean) b = Div (a, std) out = Pad (b, pads)",
    "another value around": "a = Mul (p, scale) out = Pad (a, pads, edge)",
    "edges repeated": 'a = Mul (p, scale) out = Pad <mode = "edge"> (a, pads)',
    "scales joined": "a = Mul (p, scale) out = Concat <axis = 1> (a, p)",
    "smaller": 'a = Mul (p, scale) out = Resize <mode = "linear"> (a, "", twice)',
}


@pytest.mark.parametrize("body", PREPARATIONS.values(), ids=PREPARATIONS.keys())
def test_extreme_frames_reach_the_ends_and_none_leaves_them(body: str) -> None:
    body = body.replace('""', "")
    model = onnx.parser.parse_model(HEAD.replace("BODY", body))
    low, high = prepared_ranges(model)["out"]
    session = onnxruntime_session(model)
    rng = np.random.default_rng(0)
    frames = [np.full((1, 4, 6, 3), level, np.uint8) for level in (0, 255)]
    frames += [rng.integers(0, 256, (1, 4, 6, 3), dtype=np.uint8) for _ in range(4)]
    seen = [session.run(["out"], {"image": frame})[0] for frame in frames]
    lowest, highest = (float(pick([pick(found) for found in seen])) for pick in (np.min, np.max))
    slack = 1e-4 * (high - low)
    assert low - slack <= lowest and highest <= high + slack
    if "after the mean" not in body and "b = Gather" not in body:  # channels are not told apart behind it
        assert (low, high) == pytest.approx((lowest, highest), rel=1e-4, abs=slack)


def test_small_networks_read_what_mean_and_std_say() -> None:
    low, high = prepared_ranges(NETWORKS["mobile"]())["prepared"]
    assert low == pytest.approx(min(-m / s for m, s in zip(MEAN_RGB, STD_RGB, strict=True)))
    assert high == pytest.approx(max((255 - m) / s for m, s in zip(MEAN_RGB, STD_RGB, strict=True)))


@given(st.sampled_from(["Exp", "Sqrt", "Sigmoid"]))
def test_what_is_not_known_is_left_to_measuring(kind: str) -> None:
    model = onnx.parser.parse_model(HEAD.replace("BODY", f"a = Mul (p, scale) out = {kind} (a)"))
    assert "a" in prepared_ranges(model) and "out" not in prepared_ranges(model)


def test_a_divisor_that_can_be_zero_has_no_range() -> None:
    model = onnx.parser.parse_model(HEAD.replace("BODY", "out = Div (mean, p)"))
    assert "out" not in prepared_ranges(model)
