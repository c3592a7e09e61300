"""The real TensorRT-RTX parser and builder on every exported variant; neither needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from small_networks import NETWORKS, spec_of

from fcn_deploy.calibration.recipe import Fp32Model, Recipe, open_fp32, quantized_graph
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.export.precision import to_fp16
from fcn_deploy.export.tensorrt.declared import declared_precision
from fcn_deploy.model.checkpoints.describe import describe
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.model.fcn8s import VARIANTS

trt = pytest.importorskip("tensorrt_rtx")

ALL_OUTPUTS = ("labels", "confidence", "logits")
# Learned upscores are the same ones with and without the scaled skips.
FORMS = [
    *((variant, False) for variant in VARIANTS),
    *((variant, True) for variant in VARIANTS if variant != "fcn8s-atonce"),
    pytest.param("fcn8s-atonce", True, marks=pytest.mark.slow),
]


def parse(model: onnx.ModelProto):
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    accepted = parser.parse(model.SerializeToString())
    assert accepted, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    return builder, network


def engine_bytes(builder, network) -> int:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 32, 32, 3), (1, 360, 480, 3), (2, 720, 960, 3))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return engine.nbytes


@pytest.fixture(scope="module")
def quantised(made_up_table) -> Callable[[Path, str], onnx.ModelProto]:
    """Q/DQ for TensorRT with made-up ranges: how large they are is nothing to a parser."""

    def quantise(path: Path, float_precision: str) -> onnx.ModelProto:
        fp32 = open_fp32(path)
        return quantized_graph(fp32, made_up_table(fp32), Recipe("tensorrt", float_precision=float_precision))

    return quantise


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "learned"), FORMS)
def test_the_parser_accepts_every_variant(exported, variant, learned, precision):
    model, _ = read_model(exported(variant, learned)[0])
    _, network = parse(to_fp16(model) if precision == "fp16" else model)
    image, labels = network.get_input(0), network.get_output(0)
    assert (image.name, image.dtype, tuple(image.shape)) == ("image", trt.uint8, (-1, -1, -1, 3))
    assert (labels.name, labels.dtype, tuple(labels.shape)) == ("labels", trt.uint8, (-1, -1, -1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_the_builder_makes_an_engine_with_all_outputs(exported, variant, precision):
    model, _ = read_model(exported(variant, outputs=ALL_OUTPUTS)[0])
    builder, network = parse(to_fp16(model) if precision == "fp16" else model)
    assert engine_bytes(builder, network) > 10_000


def test_a_graph_that_breaks_the_contract_is_refused():
    """The check above can fail: a Transpose on the uint8 input is not accepted."""
    nodes = [
        onnx.helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Cast", ["t"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", "h", "w", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = onnx.helper.make_graph(nodes, "g", [image], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(AssertionError):
        parse(model)


@pytest.mark.parametrize("float_precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "learned"), FORMS)
def test_the_parser_accepts_every_variant_in_int8(exported, quantised, variant, learned, float_precision):
    model = quantised(exported(variant, learned)[0], float_precision)
    _, network = parse(model)
    image, labels = network.get_input(0), network.get_output(0)
    assert (image.dtype, labels.dtype) == (trt.uint8, trt.uint8)
    found = [network.get_layer(i).type for i in range(network.num_layers)]
    assert found.count(trt.LayerType.QUANTIZE) >= 13
    assert found.count(trt.LayerType.DEQUANTIZE) >= 13 + 15


@pytest.mark.parametrize("float_precision", ["fp32", "fp16"])
@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_the_builder_makes_int8_engines_with_all_outputs(exported, quantised, variant, float_precision):
    path = exported(variant, outputs=ALL_OUTPUTS)[0]
    assert engine_bytes(*parse(quantised(path, float_precision))) > 10_000


def test_the_engine_holds_int8_weights(traced_once, quantised, tmp_path):
    """Where weights are most of an engine, its size is theirs."""
    model, info = random_model(5, "fcn8s-lite", width=24, fc_channels=256)
    path = tmp_path / "wide.onnx"
    with traced_once():
        export_onnx(model, describe(model, info), path)
    fp32 = open_fp32(path)
    single = engine_bytes(*parse(fp32.model))
    mixed = engine_bytes(*parse(to_fp16(fp32.model)))
    small = engine_bytes(*parse(quantised(path, "fp16")))
    weights = sum(p.numel() for p in model.parameters())
    assert single > 4 * weights > mixed > 2 * weights > small > weights


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_builder_takes_networks_with_today_s_parts(made_up_table, name: str, precision: str) -> None:
    fp32 = Fp32Model(Path(name), NETWORKS[name](), spec_of(name))
    model = fp32.model
    if precision == "fp16":
        model = to_fp16(model)
    elif precision != "fp32":
        recipe = Recipe("tensorrt", float_precision="fp16" if "fp16" in precision else "fp32")
        model = quantized_graph(fp32, made_up_table(fp32), recipe)
    assert declared_precision(model).precision == precision
    assert engine_bytes(*parse(model)) > 10_000
