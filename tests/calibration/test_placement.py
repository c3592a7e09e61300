"""Where the Q/DQ pairs stand, for both targets, and that runtimes make integers of them."""

from __future__ import annotations

import copy
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fcn_deploy.calibration.pairs import default_layers, layer_inputs
from fcn_deploy.calibration.recipe import Fp32Model, Recipe, open_fp32, quantised_layers, quantized_graph
from fcn_deploy.calibration.table import CalibrationTable, calibrate
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.errors import CalibrationError, UsageError
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.metrics import label_agreement
from fcn_deploy.testing import onnxruntime_session

VARIANTS = ("fcn8s", "fcn8s-atonce", "fcn8s-same", "fcn8s-lite")


@cache
def table_at(path: Path, street: Path) -> CalibrationTable:
    fp32 = open_fp32(path)
    return calibrate(fp32.model, fp32.spec, CalibrationFrames(street, fp32.spec))


def table_of(fp32: Fp32Model, street: Path) -> CalibrationTable:
    """The table of a model; taken once, and a copy that a test may change."""
    return copy.deepcopy(table_at(fp32.path, street))


def quantised(fp32: Fp32Model, street: Path, recipe: Recipe) -> onnx.ModelProto:
    return quantized_graph(fp32, table_of(fp32, street), recipe)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


@pytest.mark.parametrize(("variant", "learned"), [*((v, False) for v in VARIANTS), ("fcn8s", True)])
@pytest.mark.parametrize("recipe", [Recipe("tensorrt"), Recipe("cpu")], ids=lambda r: r.target)
def test_every_layer_but_the_scores_reads_integers(narrow, street, variant, learned, recipe) -> None:
    fp32 = open_fp32(narrow(variant, learned, classes=5))
    model = quantised(fp32, street, recipe)
    onnx.checker.check_model(model, full_check=True)
    made = makers(model)
    for node in model.graph.node:
        fed = [made[name].op_type if name in made else "" for name in node.input[:2]]
        if node.op_type == "Conv" and not node.name.startswith("score_"):
            assert fed == ["DequantizeLinear", "DequantizeLinear"], node.name
        elif node.op_type in ("ConvTranspose", "Resize") or node.name.startswith("score_"):
            assert fed[1] != "DequantizeLinear", node.name


@pytest.mark.parametrize("recipe", [Recipe("tensorrt"), Recipe("cpu"), Recipe("cpu", assume_vnni=True)])
def test_weights_are_int8_by_output_channel_within_their_limit(fp32, street, recipe) -> None:
    values = weights(quantised(fp32, street, recipe))
    original = weights(fp32.model)
    limit = 64 if recipe.target == "cpu" and not recipe.assume_vnni else 127
    for layer in default_layers(fp32.model):
        integers, scale = values[f"{layer}.weight.int8"], values[f"{layer}.weight.scale"]
        assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() == limit
        assert scale.shape == (len(integers),)
        restored = integers * scale.astype(np.float32).reshape(-1, 1, 1, 1)
        step = scale.astype(np.float32).max()
        # A little over half a step: fp16 rounds the weights before they are quantised.
        assert np.abs(restored - original[f"{layer}.weight"]).max() <= 0.56 * step
        assert f"{layer}.weight" not in values, "the float weights stay in the file"


def test_tensorrt_s_pairs_are_symmetric_and_stand_behind_the_relu(fp32, street) -> None:
    model = quantised(fp32, street, Recipe("tensorrt"))
    values, made = weights(model), makers(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]] == 0 and values[node.input[2]].dtype == np.int8
            assert made[node.input[0]].op_type in ("Relu", "MaxPool", "Cast"), "between Conv and ReLU"
            assert values[node.input[1]].dtype == np.float16
    scores = [n for n in model.graph.node if n.name in ("score_pool3", "score_pool4", "score_fr")]
    assert all(made[n.input[0]].op_type in ("MaxPool", "Relu", "Mul") for n in scores)


def test_a_cpu_s_pairs_are_unsigned_from_zero_and_pooling_lies_between_equal_ones(fp32, street) -> None:
    model = quantised(fp32, street, Recipe("cpu"))
    values, made = weights(model), makers(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.name != "sub1.q":
            assert values[node.input[2]] == 0 and values[node.input[2]].dtype == np.uint8
        if node.op_type == "MaxPool":
            before = made[node.input[0]]
            (after,) = [n for n in model.graph.node if n.input and n.input[0] == node.output[0]]
            assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
            assert values[before.input[1]] == values[after.input[1]]
    first = values["sub1.zero_point"]
    low, high = (np.array([0.0, 255.0]) - fp32.spec.mean[::-1][0], values["sub1.scale"])
    assert 0 < first < 255 and high * 255 > 255 and low[0] < 0


def test_a_cpu_s_bias_is_the_integer_that_the_sums_need(fp32, street) -> None:
    model = quantised(fp32, street, Recipe("cpu"))
    values, original = weights(model), weights(fp32.model)
    scale = values["conv3_2.bias.scale"]
    np.testing.assert_allclose(
        scale, values["conv3_1.relu.scale"] * values["conv3_2.weight.scale"], rtol=1e-6
    )
    assert values["conv3_2.bias.int32"].dtype == np.int32
    assert np.abs(values["conv3_2.bias.int32"] * scale - original["conv3_2.bias"]).max() <= scale.max()


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_onnx_runtime_runs_every_quantised_layer_on_integers(narrow, street, tmp_path, variant) -> None:
    ort = pytest.importorskip("onnxruntime")
    fp32 = open_fp32(narrow(variant, classes=5))
    model = quantised(fp32, street, Recipe("cpu"))
    onnxruntime_session(
        model,
        optimized_model_filepath=str(tmp_path / "optimised.onnx"),
        graph_optimization_level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    )
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert found["QLinearConv"] == len(default_layers(fp32.model)) == 15
    assert found["Conv"] + found["FusedConv"] == 3, "the score layers, and no other, stay in float"
    assert "Relu" not in found, "a zero point of 0 makes the ReLU disappear"


@pytest.mark.parametrize(
    "recipe", [Recipe("tensorrt"), Recipe("tensorrt", float_precision="fp32"), Recipe("cpu")]
)
def test_the_trained_model_keeps_its_labels_at_every_size(bundled, street, recipe) -> None:
    fp32 = open_fp32(bundled)
    model = quantised(fp32, street, recipe)
    frame = next(iter(CalibrationFrames(street, fp32.spec)))
    with open_session(fp32.model) as reference, open_session(model) as session:
        tiny = np.repeat(frame[:, ::3, ::3], 2, 0)  # 40x54: a few pixels of the trunk decide many labels
        for image, least in ((frame, 0.97), (frame[:, :97, :131], 0.96), (tiny, 0.85)):
            answers = [s.run(["labels"], {"image": image})[0] for s in (reference, session)]
            assert answers[0].shape == image.shape[:3]
            assert label_agreement(*answers) > least
        assert session.run(["labels"], {"image": frame[:, :1, :1]})[0].shape == (1, 1, 1)


def test_rgb_models_are_quantised_like_bgr_ones(narrow, street) -> None:
    bgr, rgb = (open_fp32(narrow(color_order=order)) for order in ("bgr", "rgb"))
    frame = next(iter(CalibrationFrames(street, bgr.spec)))
    with (
        open_session(quantised(bgr, street, Recipe("cpu"))) as a,
        open_session(quantised(rgb, street, Recipe("cpu"))) as b,
    ):
        (one,) = a.run(["labels"], {"image": frame})
        (other,) = b.run(["labels"], {"image": np.ascontiguousarray(frame[..., ::-1])})
    assert label_agreement(one, other) > 0.99


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_layers_left_out_stay_in_float(fp32, street, target) -> None:
    recipe = Recipe(target, float_precision="fp32", float_layers=("conv1_1", "conv4_2"))
    model = quantised(fp32, street, recipe)
    left = {node.name for node in model.graph.node if node.op_type == "Conv" and ".dq" not in node.input[1]}
    assert left == {"conv1_1", "conv4_2", "score_fr", "score_pool3", "score_pool4"}
    assert "conv4_2" not in quantised_layers(fp32, recipe)
    with open_session(model) as session:
        assert session.run(["labels"], {"image": np.zeros((1, 33, 47, 3), np.uint8)})[0].shape == (1, 33, 47)


def test_an_unknown_layer_and_a_missing_range_are_named(fp32, street) -> None:
    with pytest.raises(UsageError, match="no convolution conv9; choose from conv1_1, conv1_2"):
        quantised(fp32, street, Recipe("cpu", float_layers=("conv9",)))
    table = table_of(fp32, street)
    del table.measured[layer_inputs(fp32.model)["fc7"]]
    with pytest.raises(CalibrationError, match=r"no range for the tensor fc6\.relu, the input of fc7"):
        quantized_graph(fp32, table, Recipe("cpu"))


def test_nothing_left_to_quantise_is_said(fp32, street) -> None:
    everything = tuple(layer_inputs(fp32.model))
    with pytest.raises(CalibrationError, match="no layer is left for INT8"):
        quantised(fp32, street, Recipe("cpu", float_layers=everything))


@pytest.mark.parametrize("gain", [0.0, 1e-9], ids=["dead", "nearly dead"])
def test_a_channel_without_weights_keeps_its_bias(fp32, street, gain: float) -> None:
    """Its weights' scale times that of its input is so fine that the bias would leave 32 bits."""
    pruned = onnx.ModelProto()
    pruned.CopyFrom(fp32.model)
    for tensor in pruned.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "conv2_2.weight":
            values[1] *= gain
        elif tensor.name == "conv2_2.bias":
            values[1] = 5.0
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    other = Fp32Model(fp32.path, pruned, fp32.spec)
    frame = next(iter(CalibrationFrames(street, fp32.spec)))
    for recipe in (Recipe("cpu"), Recipe("tensorrt"), Recipe("tensorrt", float_precision="fp32")):
        with open_session(quantised(other, street, recipe), ["conv2_2.relu"]) as session:
            (found,) = session.run(["conv2_2.relu"], {"image": frame})
        assert np.abs(found[0, 1].astype(np.float32) - 5.0).max() < 0.1, recipe
