"""fp16 of networks that are no FCN-8s: what stays in fp32, and what may overflow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_networks import NETWORKS, spec_of

from fcn_deploy.errors import ExportError
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF, element_types
from fcn_deploy.export.precision import FP16_LARGEST, activation_ranges, check_fp16_range, to_fp16
from fcn_deploy.export.rounding import simulate_fp16


def frames(count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)


def scaled(model: onnx.ModelProto, factor: float, *names: str) -> onnx.ModelProto:
    """A copy whose initializers of these names are multiplied."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return changed


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_from_the_first_convolution_on_is_fp16_but_global_means(name: str) -> None:
    model = NETWORKS[name]()
    half = to_fp16(model)
    kinds = element_types(half)
    for node in half.graph.node:
        if node.op_type in ("Conv", "Relu", "HardSwish", "Mul", "Add", "Concat", "MaxPool", "Resize"):
            wanted = PROTO_HALF if kinds[node.output[0]] != onnx.TensorProto.INT64 else onnx.TensorProto.INT64
            assert kinds[node.output[0]] == wanted, node.name
        if node.op_type in ("Sub", "Div", "GlobalAveragePool"):
            assert kinds[node.output[0]] == PROTO_FLOAT, node.name
    assert {t.data_type for t in half.graph.initializer if t.name.endswith(("weight", "bias"))} == {
        PROTO_HALF
    }
    with open_session(model) as a, open_session(simulate_fp16(half)) as b:
        one, other = (session.run(["labels"], {"image": frames()})[0] for session in (a, b))
    assert (one == other).mean() > 0.98


def test_a_mean_over_a_large_map_does_not_overflow_though_its_sum_would() -> None:
    """100 x 150 pixels of 10 add up to 150,000: more than fp16 holds."""
    model = scaled(NETWORKS["mobile"](), 30.0, "dilated.weight", "dilated.bias")
    frame = np.random.default_rng(0).integers(0, 256, (1, 400, 600, 3), dtype=np.uint8)
    with open_session(model, ["dilated.hardswish"]) as session:
        (seen,) = session.run(["dilated.hardswish"], {"image": frame})
    assert seen.max() < FP16_LARGEST < np.abs(seen.sum((2, 3))).max()
    with open_session(simulate_fp16(to_fp16(model)), ["pooled"]) as session:
        (mean,) = session.run(["pooled"], {"image": frame})
    np.testing.assert_allclose(mean, seen.mean((2, 3), keepdims=True), rtol=1e-2, atol=0.1)


def test_what_is_watched_is_the_first_layer_s_input_and_what_can_grow() -> None:
    model, spec = NETWORKS["mobile"](), spec_of("mobile")
    ranges, count = activation_ranges(model, spec, [frames(2)])
    assert count == 2 and next(iter(ranges)) == "prepared"
    assert {"first", "residual", "scaled", "scores", "upscored"} < set(ranges)
    assert not {"first.hardswish", "pooled", "upscored.side", "centred"} & set(ranges)
    assert 2 < ranges["prepared"] <= 2.65


def test_a_residual_sum_beyond_fp16_is_named_and_kept_in_fp32_on_request() -> None:
    model, spec = NETWORKS["residual"](), spec_of("residual")
    loud = scaled(model, 6000.0, "a.2.weight", "a.2.bias", "a.shortcut.weight", "a.shortcut.bias")
    with pytest.raises(ExportError, match=r"a\.(2|sum|shortcut) reaches"):
        check_fp16_range(loud, spec, [frames()], "a test")
    kept = check_fp16_range(loud, spec, [frames()], "a test", keep_fp32=True)["kept_fp32"]
    assert "a.sum" in kept
    mixed = simulate_fp16(to_fp16(loud, kept))
    with open_session(mixed, [*kept, "upscored"]) as session:
        assert all(
            np.isfinite(found).all() for found in session.run([*kept, "upscored"], {"image": frames()})
        )
