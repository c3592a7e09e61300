"""The simulation of fp16 rounds every fp16 tensor, keeps overflow, and is not optimised away."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from fcn_deploy.errors import ExportError, ModelError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import element_types
from fcn_deploy.export.precision import check_fp16_range, to_fp16
from fcn_deploy.export.rounding import simulate_fp16, simulated_artefact

FRAME = np.random.default_rng(0).integers(0, 256, (1, 61, 47, 3), dtype=np.uint8)


def louder(model: onnx.ModelProto, layer: str, gain: float, quieter: str) -> onnx.ModelProto:
    """The same answers from a graph in which ``layer`` is ``gain`` times as large."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        factors = {f"{layer}.weight": gain, f"{layer}.bias": gain, f"{quieter}.weight": 1 / gain}
        factor = factors.get(tensor.name)
        if factor:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return changed


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_every_fp16_tensor_is_a_half_precision_number(exported, variant) -> None:
    half = to_fp16(read_model(exported(variant)[0])[0])
    kinds = element_types(half)
    names = [n for node in half.graph.node for n in node.output if kinds.get(n) == TensorProto.FLOAT16]
    assert len(names) > 30
    simulated = simulate_fp16(half)
    with open_session(simulated, names) as session:
        for name, value in zip(names, session.run(names, {"image": FRAME}), strict=True):
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32), err_msg=name)


def test_it_answers_nearly_as_fp32(exported) -> None:
    model, _ = read_model(exported("fcn8s-lite")[0])
    with open_session(model) as a, open_session(simulate_fp16(to_fp16(model))) as b:
        one, other = (s.run(["labels"], {"image": FRAME})[0] for s in (a, b))
    assert (one == other).mean() > 0.97


def test_what_overflows_becomes_infinite_and_shows(exported) -> None:
    model, _ = read_model(exported("fcn8s-lite")[0])
    loud = louder(model, "conv3_1", 1e4, "conv3_2")
    with open_session(simulate_fp16(to_fp16(loud)), ["conv3_1"]) as session:
        assert np.isinf(session.run(["conv3_1"], {"image": FRAME})[0]).any()


def test_layers_that_overflow_are_kept_in_fp32_on_request(exported) -> None:
    model, spec = read_model(exported("fcn8s-lite")[0])
    loud = louder(model, "conv3_1", 1e4, "conv3_2")
    with pytest.raises(ExportError, match=r"layer conv3_1 reaches .*--keep-fp32"):
        check_fp16_range(loud, spec, [FRAME], "a test")
    record = check_fp16_range(loud, spec, [FRAME], "a test", keep_fp32=True)
    assert record["kept_fp32"] == ["conv3_1"]
    mixed = to_fp16(loud, record["kept_fp32"])
    kinds = element_types(mixed)
    assert kinds["conv3_1"] == kinds["conv3_1.relu"] == kinds["conv3_2"] == TensorProto.FLOAT
    assert kinds["conv2_2"] == kinds["conv3_3"] == TensorProto.FLOAT16
    with open_session(model) as a, open_session(simulate_fp16(mixed), ["conv3_1"]) as b:
        (expected,) = a.run(["labels"], {"image": FRAME})
        found, inner = b.run(["labels", "conv3_1"], {"image": FRAME})
    assert np.isfinite(inner).all() and (found == expected).mean() > 0.97


def test_a_graph_with_notes_of_a_shape_inference_is_converted(exported) -> None:
    model, _ = read_model(exported("fcn8s-lite")[0])
    to_fp16(onnx.shape_inference.infer_shapes(model))


def test_a_graph_without_fp16_is_refused(exported) -> None:
    with pytest.raises(ModelError, match="nothing in this graph is fp16"):
        simulate_fp16(read_model(exported("fcn8s-lite")[0])[0])


def test_the_temporary_artefact_is_gone_afterwards(exported, tmp_path) -> None:
    from fcn_deploy.export.graph.files import write_model

    model, spec = read_model(exported("fcn8s-lite")[0])
    path = tmp_path / "half.onnx"
    write_model(to_fp16(model), spec.replace(precision="fp16"), path)
    with simulated_artefact(path) as simulated:
        assert simulated.name == "half.onnx" and simulated != path
        assert read_model(simulated)[1].precision == "fp16"
    assert not simulated.exists()
