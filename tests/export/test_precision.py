from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from fcn_deploy.errors import ExportError, SourceError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import element_types
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.export.precision import FP16_LARGEST, activation_ranges, check_fp16_range, to_fp16
from fcn_deploy.export.rounding import simulate_fp16
from fcn_deploy.testing import onnxruntime_session

FLOAT16 = onnx.TensorProto.FLOAT16
ALL_OUTPUTS = ("labels", "confidence", "logits")


def frames(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
@pytest.mark.parametrize("outputs", [("labels",), ALL_OUTPUTS])
def test_fp16_graph_holds_fp16_weights_and_keeps_its_contract(exported, variant, outputs):
    model, _ = read_model(exported(variant, outputs=outputs)[0])
    half = to_fp16(model)
    for tensor in half.graph.initializer:
        if tensor.name.endswith((".weight", ".bias")):
            assert tensor.data_type == FLOAT16, tensor.name
    assert [o.type for o in half.graph.output] == [o.type for o in model.graph.output]
    before, after = onnxruntime_session(model), onnxruntime_session(half)
    expected = before.run(["labels"], {"image": frames()})[0]
    assert (after.run(["labels"], {"image": frames()})[0] == expected).mean() > 0.98


def test_the_source_graph_is_left_alone(exported):
    model, _ = read_model(exported("fcn8s-lite")[0])
    before = model.SerializeToString(deterministic=True)
    to_fp16(model)
    assert model.SerializeToString(deterministic=True) == before


def test_an_fp16_graph_is_not_converted_twice(exported):
    half = to_fp16(read_model(exported("fcn8s-lite")[0])[0])
    with pytest.raises(ExportError, match="already holds fp16"):
        to_fp16(half)


def test_ranges_are_those_of_the_module(exported):
    path, model, spec = exported("fcn8s-lite")
    seen: dict[str, float] = {}
    for name in ("conv1_1", "conv4_2", "fc6", "score_pool3"):
        getattr(model, name).register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, float(out.abs().max()))
        )
    normalised = (frames().astype(np.float32) - np.float32(spec.mean)).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        model(torch.from_numpy(normalised.copy()))
    graph, _ = read_model(path)
    ranges, count = activation_ranges(graph, spec, [frames()[:1], frames()[1:]])
    assert count == 2
    for name, largest in seen.items():
        assert ranges[name] == pytest.approx(largest, rel=1e-4)


def test_no_frames_is_an_error(exported):
    path, _, spec = exported("fcn8s-lite")
    with pytest.raises(SourceError, match="no calibration frames"):
        activation_ranges(read_model(path)[0], spec, [])


def test_export_refuses_an_overflow_with_the_layer_s_name(exported, traced_once, tmp_path):
    import copy

    _, model, spec = exported("fcn8s-lite")
    loud = copy.deepcopy(model)
    with torch.no_grad():
        loud.conv3_1.weight.mul_(1e4)
    told = pytest.raises(ExportError, match=r"layer conv3_1 reaches .* fp16 ends at 65504")
    with traced_once(), told:
        export_onnx(loud, spec, tmp_path / "loud.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_beyond_fp16_is_refused(exported):
    model, _ = read_model(exported("fcn8s-lite")[0])
    weight = next(t for t in model.graph.initializer if t.name == "conv2_1.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = 2 * FP16_LARGEST
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"conv2_1\.weight holds .* keep fp32"):
        to_fp16(model)


def test_export_as_fp16_records_ranges_and_where_the_frames_came_from(exported, traced_once, tmp_path):
    _, model, spec = exported("fcn8s-lite")
    with traced_once():
        written = export_onnx(model, spec, tmp_path / "half.onnx", precision="fp16")
    assert written.precision == "fp16"
    ranges = written.evidence["fp16_range"]
    assert ranges["source"] == "the synthetic street clip"
    assert 0 < ranges["largest"] == max(ranges["by_layer"].values()) < FP16_LARGEST
    assert written.evidence["parity"]["max_relative_error"] < 0.01
    assert written.evidence["parity"]["fp32"]["max_relative_error"] < 1e-5


def scaled(model: onnx.ModelProto, **factors: float) -> onnx.ModelProto:
    """A copy whose initializers are multiplied; ``conv1_1__weight`` stands for ``conv1_1.weight``."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        factor = factors.get(tensor.name.replace(".", "__"))
        if factor is not None:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return changed


def shifted(model: onnx.ModelProto, by: float, *layers: str) -> onnx.ModelProto:
    """A copy in which each class score of ``layers`` is larger by ``by``: the same labels."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name.removesuffix(".bias") in layers and tensor.name.endswith(".bias"):
            values = onnx.numpy_helper.to_array(tensor) + np.float32(by)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return changed


@pytest.mark.parametrize(
    ("variant", "learned"),
    [("fcn8s-lite", False), ("fcn8s", False), pytest.param("fcn8s", True, marks=pytest.mark.slow)],
)
def test_a_sum_that_overflows_is_named_and_kept_though_its_parts_fit(exported, variant, learned):
    """Two scores of 40,000 are fp16 numbers; what they add up to is none."""
    model, spec = read_model(exported(variant, learned, outputs=ALL_OUTPUTS)[0])
    loud = shifted(model, 40_000 if variant == "fcn8s-lite" else 39_000, "score_fr", "score_pool4")
    with pytest.raises(ExportError, match="layer add"):
        check_fp16_range(loud, spec, [frames(1)], "a test")
    record = check_fp16_range(loud, spec, [frames(1)], "a test", keep_fp32=True)
    assert any(name.startswith("add") for name in record["kept_fp32"])
    mixed = simulate_fp16(to_fp16(loud, record["kept_fp32"]))
    with open_session(mixed, record["kept_fp32"]) as session:
        answers = session.run([*record["kept_fp32"], "logits"], {"image": frames(1)})
    assert all(np.isfinite(answer).all() for answer in answers)


def test_upscores_that_share_their_weights_can_differ_in_precision(exported):
    """Both names are in the graph; one initializer serves the two."""
    model, _ = read_model(exported("fcn8s")[0])
    upscores = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    assert len(upscores) == 2 and upscores[0].input[1] == upscores[1].input[1]
    mixed = to_fp16(model, [upscores[0].name])
    kinds = element_types(mixed)
    assert kinds[upscores[0].output[0]] == onnx.TensorProto.FLOAT
    assert kinds[upscores[1].output[0]] == FLOAT16
    with open_session(model) as a, open_session(simulate_fp16(mixed)) as b:
        one, other = (session.run(["labels"], {"image": frames(1)})[0] for session in (a, b))
    assert (one == other).mean() > 0.97


def test_a_weight_beyond_fp16_may_stay_in_a_layer_kept_in_fp32(exported):
    model, _ = read_model(exported("fcn8s-lite")[0])
    loud = scaled(model, conv3_1__weight=1e6, conv3_2__weight=1e-6)
    with pytest.raises(ExportError, match=r"conv3_1\.weight holds"):
        to_fp16(loud)
    kinds = element_types(to_fp16(loud, ["conv3_1"]))
    assert kinds["conv3_1.weight"] == onnx.TensorProto.FLOAT
    assert kinds["conv4_1.weight"] == FLOAT16


def test_export_keeps_overflowing_layers_on_request_and_says_which(exported, traced_once, tmp_path):
    import copy

    _, model, spec = exported("fcn8s-lite")
    loud = copy.deepcopy(model)
    with torch.no_grad():
        loud.conv3_1.weight.mul_(1e4)
        loud.conv3_1.bias.mul_(1e4)
        loud.conv3_2.weight.mul_(1e-4)
    half = {"precision": "fp16", "keep_fp32": True}
    with traced_once():
        written = export_onnx(loud, spec, tmp_path / "x.onnx", **half)
    assert written.evidence["fp16_range"]["kept_fp32"] == ["conv3_1"]
    kinds = element_types(read_model(tmp_path / "x.onnx")[0])
    assert kinds["conv3_1"] == onnx.TensorProto.FLOAT and kinds["conv3_3"] == FLOAT16
