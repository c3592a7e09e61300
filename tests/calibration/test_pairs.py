"""Where pairs stand in networks with today's parts, for both targets, and what runtimes make of them."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_networks import NETWORKS, spec_of

from fcn_deploy.calibration.pairs import default_layers, layer_inputs, measured_tensors, pairs_for
from fcn_deploy.calibration.recipe import Fp32Model, Recipe, layer_costs, quantized_graph
from fcn_deploy.calibration.table import CalibrationTable, calibrate
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.export.graph.roles import pooled_layers, score_layers
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.rounding import simulate_fp16
from fcn_deploy.metrics import label_agreement
from fcn_deploy.testing import onnxruntime_session, openvino_model


def network(name: str) -> Fp32Model:
    return Fp32Model(Path(f"{name}.onnx"), NETWORKS[name](), spec_of(name))


@cache
def table_of(name: str, street: Path) -> CalibrationTable:
    own = network(name)
    return calibrate(own.model, own.spec, CalibrationFrames(street, own.spec))


def quantised(name: str, street: Path, recipe: Recipe) -> onnx.ModelProto:
    return quantized_graph(network(name), table_of(name, street), recipe)


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def optimised(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a graph."""
    ort = pytest.importorskip("onnxruntime")
    onnxruntime_session(
        model,
        optimized_model_filepath=str(folder / "optimised.onnx"),
        graph_optimization_level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    )
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_but_score_and_pooled_layers_are_quantised(name: str, street) -> None:
    own = network(name)
    left = {*score_layers(own.model), *pooled_layers(own.model)}
    assert set(default_layers(own.model)) == set(layer_inputs(own.model)) - left
    for recipe in (Recipe("cpu"), Recipe("tensorrt")):
        chosen = default_layers(own.model, recipe.target)
        model = quantised(name, street, recipe)
        onnx.checker.check_model(model, full_check=True)
        fed = {
            node.name: [name.endswith(".dq") for name in node.input[:2]]
            for node in model.graph.node
            if node.op_type == "Conv"
        }
        assert {name for name, both in fed.items() if all(both)} == set(chosen)
        assert not any(weight for name, (_, weight) in fed.items() if name not in chosen)


def test_on_a_cpu_a_small_convolution_before_a_float_operator_stays_in_float() -> None:
    """What integers save there is less than quantising its output costs."""
    mobile = NETWORKS["mobile"]()
    assert default_layers(mobile, "cpu") == ["depthwise", "project", "expand"]
    assert {"first", "dilated", "last"} < set(default_layers(mobile))
    for name in ("residual", "unet"):
        assert default_layers(NETWORKS[name](), "cpu") == default_layers(NETWORKS[name]())


def test_a_cpu_s_pairs_stand_behind_additions_concatenations_and_hard_swishes() -> None:
    residual, mobile, unet = (NETWORKS[name]() for name in ("residual", "mobile", "unet"))
    ranges = pairs_for(residual, default_layers(residual, "cpu"), "cpu").ranges
    assert {"a.2", "a.shortcut", "a", "b.2", "b", "context.spread", "context"} <= set(ranges)
    assert not {"a.sum", "b.sum", "pooled", "classify"} & set(ranges), "the ReLU belongs to the addition"
    assert ranges["first.relu"] == ranges["pool"] == "pool"
    ranges = pairs_for(mobile, default_layers(mobile, "cpu"), "cpu").ranges
    assert {"first.hardswish", "depthwise.relu", "project", "residual", "expand"} == set(ranges)
    ranges = pairs_for(unet, default_layers(unet, "cpu"), "cpu").ranges
    assert ranges["pool"] == "down.relu", "others read what is pooled, so its own range is the wider one"
    assert ranges["up"] == ranges["middle.relu"] == "up" and ranges["both"] == "both"


def test_tensorrt_s_pairs_stand_at_convolutions_and_at_the_residual_operand() -> None:
    model = NETWORKS["residual"]()
    pairs = pairs_for(model, default_layers(model), "tensorrt")
    additions = {reader for reader in pairs.readers if reader[0].endswith(".sum")}
    assert additions == {("a.sum", 1), ("b.sum", 1)}, (
        "the shortcut of fewer layers, and what was added before"
    )
    assert {name for name, place in pairs.readers - additions if place == 0} == set(default_layers(model))
    assert not {"a.2", "b.2", "a.sum", "b.sum"} & set(pairs.ranges), "nothing between Conv, Add and ReLU"
    mobile = NETWORKS["mobile"]()
    pairs = pairs_for(mobile, default_layers(mobile), "tensorrt")
    assert ("residual", 1) in pairs.readers and not {"first", "expand", "dilated"} & set(pairs.ranges)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fewer_layers_need_no_range_that_was_not_measured(name: str, target: str) -> None:
    model = NETWORKS[name]()
    measured = set(measured_tensors(model))
    everything = default_layers(model, target)
    for left in everything:
        some = [layer for layer in everything if layer != left]
        assert set(pairs_for(model, some, target).ranges.values()) <= measured
        assert set(pairs_for(model, [left], target).ranges.values()) <= measured


@pytest.mark.parametrize(
    ("name", "expected", "floats"),
    [
        ("mobile", {"QLinearConv": 3, "QLinearAdd": 1}, 7),
        ("residual", {"QLinearConv": 9, "QLinearAdd": 2, "QLinearConcat": 1, "MaxPool": 1}, 2),
        ("unet", {"QLinearConv": 3, "QLinearConcat": 1, "MaxPool": 1}, 1),
    ],
)
def test_onnx_runtime_makes_integer_operators_of_a_cpu_s_pairs(
    street, tmp_path, name: str, expected: dict[str, int], floats: int
) -> None:
    found = optimised(quantised(name, street, Recipe("cpu")), tmp_path)
    found["Conv"] += found.pop("FusedConv", 0)
    found["MaxPool"] += found.pop("NhwcMaxPool", 0)
    assert {kind: found[kind] for kind in expected} == expected
    assert found["Conv"] == floats and "Relu" not in found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_both_signs_use_their_integers(name: str, target: str, street) -> None:
    model = quantised(name, street, Recipe(target, float_precision="fp32"))
    values, table = values_of(model), table_of(name, street)
    own = network(name).model
    ranges = table.ranges("entropy", target)
    for tensor, source in pairs_for(own, default_layers(own, target), target).ranges.items():
        low, high = ranges[source]
        scale, zero = float(values[f"{tensor}.scale"]), values[f"{tensor}.zero_point"]
        if target == "tensorrt":
            assert zero.dtype == np.int8 and zero == 0
            assert scale * 127 == pytest.approx(max(-low, high), rel=1e-5)
        else:
            assert zero.dtype == np.uint8 and (zero == 0) == (low > -scale / 2)
            assert (0 - int(zero)) * scale == pytest.approx(low, abs=scale)
            assert (255 - int(zero)) * scale == pytest.approx(high, abs=scale)
    assert any(low < 0 for low, _ in ranges.values()) or name == "unet"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("recipe", [Recipe("tensorrt"), Recipe("cpu"), Recipe("cpu", assume_vnni=True)])
def test_labels_stay_those_of_fp32(name: str, street, recipe: Recipe, method: str) -> None:
    own = network(name)
    recipe = Recipe(recipe.target, method, assume_vnni=recipe.assume_vnni)
    model = quantised(name, street, recipe)
    frame = next(iter(CalibrationFrames(street, own.spec)))
    runnable = simulate_fp16(model) if recipe.half else model
    with open_session(own.model) as a, open_session(runnable) as b:
        for image in (frame, frame[:, :96, :130]):
            one, other = (session.run(["labels"], {"image": image})[0] for session in (a, b))
            assert label_agreement(one, other) > 0.94


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_gives_what_onnx_runtime_gives(name: str, street) -> None:
    pytest.importorskip("openvino")
    model = quantised(name, street, Recipe("cpu"))
    frame = next(iter(CalibrationFrames(street, network(name).spec)))
    found = openvino_model(model)(frame)[0]
    assert label_agreement(onnxruntime_session(model).run(["labels"], {"image": frame})[0], found) > 0.97


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_can_be_left_in_float_one_by_one(name: str, street) -> None:
    own = network(name)
    frame = next(iter(CalibrationFrames(street, own.spec)))
    for target in ("cpu", "tensorrt"):
        for layer in default_layers(own.model, target):
            recipe = Recipe(target, float_precision="fp32", float_layers=(layer,))
            with open_session(quantised(name, street, recipe)) as session:
                session.run(["labels"], {"image": frame[:, :64, :64]})


def test_work_follows_strides_upsampling_and_pooling() -> None:
    work = layer_costs(network("mobile"))
    assert work["squeeze"] == work["excite"] == 0 and sum(work.values()) == pytest.approx(1)
    assert work["depthwise"] / work["project"] == pytest.approx(9 / 16), "each channel reads one"
    assert work["last"] / work["expand"] == pytest.approx(32 * 24 / (16 * 32 * 25) / 4)
    assert work["score_of_high"] / work["score_of_low"] == pytest.approx(24 / 16), "both at the larger size"
    fixed = network("residual")
    (dims,) = (value.type.tensor_type.shape.dim for value in fixed.model.graph.input)
    for dim, length in zip(dims, (1, 64, 96), strict=False):
        dim.dim_value = length
    fixed = Fp32Model(fixed.path, fixed.model, fixed.spec.replace(fixed_shape=(1, 64, 96)))
    shares = layer_costs(fixed)
    assert shares["a.1"] / shares["first"] == pytest.approx(16 / 3 / 4)
    assert 0 < shares["context.pooled"] < 1e-3
