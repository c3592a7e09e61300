"""Graphs of other exporters in one form, with the results that they had."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_networks import NETWORKS

from fcn_deploy.errors import ModelError
from fcn_deploy.export.graph.files import identity, read_model
from fcn_deploy.export.graph.normal_form import at_least_opset, normalise
from fcn_deploy.export.graph.surgery import pad_pooling
from fcn_deploy.testing import onnxruntime_session

HEAD = """
<ir_version: 8, opset_import: ["" : OPSET]>
g (uint8[n, h, w, 3] image) => (float[n, c, y, x] out)
<float[4,3,1,1] k, float[4,2,1,1] grouped, float[4,2,2,2] up, float[4] b, float[4] s = {1, -2, 0.5, 3},
 float[4] m = {30, -7, 0, 90}, float[4] v = {2, 900, 1, 0.25}, float[3] s3 = {1, 2, 3},
 float[3] v3 = {9, 4, 1}, float[3] m3 = {100, 50, 0}, int64[2] spatial = {-1, -2}>
{
  f = Cast <to = 1> (image)
  p = Transpose <perm = [0, 3, 1, 2]> (f)
  BODY
}
"""

NORM = "BatchNormalization <epsilon = 0.01>"


def parsed(body: str, opset: int = 20) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD.replace("BODY", body).replace("OPSET", str(opset)))
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:  # declared without numbers
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        numbers = rng.normal(0, 0.1, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(numbers, value.name))
    del model.graph.value_info[:]
    return model


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node[2:])


def results(model: onnx.ModelProto) -> np.ndarray:
    frame = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    return onnxruntime_session(model).run(["out"], {"image": frame})[0]


BODIES = {
    "norm behind a convolution": (f"a = Conv (p, k) out = {NORM} (a, s, b, m, v)", {"Conv": 1}),
    "norm behind one with a bias": (f"a = Conv (p, k, m) out = {NORM} (a, s, b, m, v)", {"Conv": 1}),
    "norm behind groups": (
        f"a = Conv (p, k) c = Relu (a) d = Conv <group = 2> (c, grouped) out = {NORM} (d, s, b, m, v)",
        {"Conv": 2, "Relu": 1},
    ),
    "norm behind a transposed one with groups": (
        "a = Conv (p, k) c = ConvTranspose <group = 2, strides = [2, 2]> (a, up) "
        f"out = {NORM} (c, s, b, m, v)",
        {"Conv": 1, "ConvTranspose": 1},
    ),
    "two norms behind the same weights": (
        f"a = Conv (p, k) c = {NORM} (a, s, b, m, v) d = Conv (p, k) e = {NORM} (d, b, s, m, v) "
        "out = Add (c, e)",
        {"Conv": 2, "Add": 1},
    ),
    "norm of a tensor that others read": (
        f"a = Conv (p, k) c = {NORM} (a, s, b, m, v) out = Add (a, c)",
        {"Conv": 1, "Mul": 1, "Add": 2},
    ),
    "norm of the frame": (
        f"a = {NORM} (p, s3, m3, m3, v3) out = Conv (a, k)",
        {"Mul": 1, "Add": 1, "Conv": 1},
    ),
    "constants": (
        "w = Constant <value = float[1,3,1,1] {1, 2, 3}> () t = Constant <value_float = 0.5> () "
        "a = Conv (p, w) out = Mul (a, t)",
        {"Conv": 1, "Mul": 1},
    ),
    "identities": (
        "w = Identity (k) a = Identity (p) c = Conv (a, w) d = Dropout (c) out = Identity (d)",
        {"Conv": 1, "Identity": 1},
    ),
    "nothing read": (
        "a = Conv (p, k) c = Relu (a) d = Shape (c) out = Sigmoid (a)",
        {"Conv": 1, "Sigmoid": 1},
    ),
    "global mean": ("a = Conv (p, k) out = ReduceMean (a, spatial)", {"Conv": 1, "GlobalAveragePool": 1}),
    "mean of the channels": (
        "a = Conv (p, k) c = Constant <value_ints = [1]> () out = ReduceMean (a, c)",
        {"Conv": 1, "ReduceMean": 1},
    ),
}


@pytest.mark.parametrize(("body", "left"), BODIES.values(), ids=BODIES.keys())
def test_the_form_changes_and_the_results_do_not(body: str, left: dict[str, int]) -> None:
    model = parsed(body)
    changed = copy.deepcopy(model)
    normalise(changed)
    onnx.checker.check_model(changed, full_check=True)
    assert kinds(changed) == left
    expected = results(model)
    np.testing.assert_allclose(results(changed), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    names = [node.name for node in changed.graph.node]
    assert all(names) and len(set(names)) == len(names)


def test_axes_of_older_opsets_are_attributes() -> None:
    model = parsed("a = Conv (p, k) out = ReduceMean <axes = [2, 3], keepdims = 1> (a)", opset=13)
    changed = copy.deepcopy(model)
    normalise(changed)
    assert kinds(changed) == {"Conv": 1, "GlobalAveragePool": 1}
    np.testing.assert_allclose(results(changed), results(model), rtol=1e-5)


COPY = """
  a = Conv (p, k)
  c = ReduceMean (a, spatial)
  minus = Constant <value_ints = [-1]> ()  flat = Reshape (c, minus)
  n1 = Shape <start = 0, end = 1> (image)  count = Squeeze (n1)
  zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  four = Constant <value_int = FOUR> ()
  every = Range (zero, count, one)  rows = Mul (every, four)
  places = Constant <value_ints = [1, 2, 3]> ()  columns = Unsqueeze (rows, places)
  order = Constant <value = int64[1,4,1,1] {0, 1, 2, ORDER}> ()  indices = Add (columns, order)
  out = Gather <axis = 0> (flat, indices)
"""


def test_a_copy_of_a_pooled_map_as_the_exporter_writes_it_is_skipped_and_another_order_is_not() -> None:
    """PyTorch's exporter writes adaptive_avg_pool2d so."""
    tail = COPY.replace("  out = Gather <axis = 0> (flat, indices)", "")
    tail += "  d = Gather <axis = 0> (flat, indices)  out = Relu (d)"
    for four, order, expected in (
        ("4", "3", {"Conv": 1, "GlobalAveragePool": 1, "Relu": 1}),
        ("4", "2", None),
        ("0", "3", None),
    ):
        model = parsed(tail.replace("FOUR", four).replace("ORDER", order))
        changed = copy.deepcopy(model)
        normalise(changed)
        assert (kinds(changed) == expected) if expected else kinds(changed)["Gather"] == 1
        np.testing.assert_allclose(results(changed), results(model), rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_in_normal_form_is_left_alone(name: str) -> None:
    model = NETWORKS[name]()
    before = identity(model)
    normalise(model)
    assert identity(model) == before


def test_an_fcn8s_is_in_normal_form(exported) -> None:
    model, _ = read_model(exported("fcn8s-lite")[0])
    before = identity(model)
    normalise(model)
    assert identity(model) == before


def test_an_older_opset_is_converted_and_a_newer_one_is_not() -> None:
    model = parsed("a = Conv (p, k) out = ReduceMean <axes = [2, 3], keepdims = 1> (a)", opset=11)
    newer = at_least_opset(model, 19)
    assert newer.opset_import[0].version == 19
    np.testing.assert_allclose(results(newer), results(model), rtol=1e-5)
    assert at_least_opset(newer, 13) is newer


def test_a_conversion_that_fails_is_said(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    with pytest.raises(ModelError, match=r"opset 11, 19 is needed.*no adapter.*export it again"):
        at_least_opset(parsed("out = Conv (p, k)", opset=11), 19)


@pytest.mark.parametrize("side", [5, 6, 7, 8, 9])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "kept"),
    [(2, 2, 0, False), (3, 2, 0, False), (3, 2, 1, False), (2, 3, 0, True)],
)
def test_ceil_mode_as_padding_gives_the_same(
    kernel: int, stride: int, pad: int, kept: bool, side: int
) -> None:
    node = (
        f"out = MaxPool <kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], "
        f"pads = [{pad}, {pad}, {pad}, {pad}], ceil_mode = 1> (p)"
    )
    model = parsed(node)
    changed = copy.deepcopy(model)
    pad_pooling(changed)
    assert any(a.name == "ceil_mode" and a.i for a in changed.graph.node[-1].attribute) == kept
    frame = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    one, other = (onnxruntime_session(m).run(["out"], {"image": frame})[0] for m in (model, changed))
    np.testing.assert_array_equal(one, other)
