from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from fcn_deploy.errors import ExportError, SourceError
from fcn_deploy.export.graph import read_model
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.export.precision import FP16_LARGEST, activation_ranges, to_fp16

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
    before = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    after = ort.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
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


def test_export_refuses_an_overflow_with_the_layer_s_name(exported, tmp_path):
    import copy

    _, model, spec = exported("fcn8s-lite")
    loud = copy.deepcopy(model)
    with torch.no_grad():
        loud.conv3_1.weight.mul_(1e4)
    with pytest.raises(ExportError, match=r"layer conv3_1 reaches .* fp16 ends at 65504"):
        export_onnx(loud, spec, tmp_path / "loud.onnx", precision="fp16", calib=[frames()])
    assert list(tmp_path.iterdir()) == []


def test_a_weight_beyond_fp16_is_refused(exported):
    model, _ = read_model(exported("fcn8s-lite")[0])
    weight = next(t for t in model.graph.initializer if t.name == "conv2_1.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = 2 * FP16_LARGEST
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"conv2_1\.weight holds .* keep fp32"):
        to_fp16(model)


def test_export_as_fp16_records_ranges_and_where_the_frames_came_from(exported, tmp_path):
    _, model, spec = exported("fcn8s-lite")
    written = export_onnx(model, spec, tmp_path / "half.onnx", precision="fp16")
    assert written.precision == "fp16"
    ranges = written.evidence["fp16_range"]
    assert ranges["source"] == "the synthetic street clip"
    assert 0 < ranges["largest"] == max(ranges["by_layer"].values()) < FP16_LARGEST
    assert written.evidence["parity"]["max_relative_error"] < 0.01
    assert written.evidence["parity"]["fp32"]["max_relative_error"] < 1e-5
