"""The one way to fp16, from a checkpoint and from an fp32 file: the same graph, the same evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from fcn_deploy.errors import ExportError
from fcn_deploy.export.fp16 import convert_file_to_fp16
from fcn_deploy.export.graph.files import identity, read_model, write_model
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.export.parity import PARITY_SIZES
from fcn_deploy.runtimes.artefact import read_spec


@pytest.mark.parametrize("outputs", [("labels",), ("labels", "confidence", "logits")], ids=len)
@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_a_file_is_compared_with_the_fp32_graph(exported, variant, outputs, tmp_path: Path) -> None:
    path, _, fp32 = exported(variant, outputs=outputs)
    spec = convert_file_to_fp16(path, tmp_path / "half.onnx")
    parity = spec.evidence["parity"]
    assert len(parity["sizes"]) == len(PARITY_SIZES)
    assert 0 < parity["max_relative_error"] < 0.01  # weights are rounded, so zero would mean no comparison
    assert parity["min_agreement"] > 0.9
    assert parity["fp32"] == fp32.evidence["parity"]
    assert parity["network"] == "the fp32 graph"
    assert spec.evidence["fp16_range"]["source"] == "the synthetic street clip"
    assert spec.precision == "fp16"
    assert spec.provenance[0]["sha256"] == identity(onnx.load(path))
    assert read_spec(tmp_path / "half.onnx") == spec


def test_both_ways_give_the_same_graph(exported, traced_once, tmp_path: Path) -> None:
    path, model, spec = exported("fcn8s-lite")
    convert_file_to_fp16(path, tmp_path / "of_file.onnx")
    with traced_once():
        export_onnx(model, spec, tmp_path / "of_model.onnx", precision="fp16")
    of_file, of_model = (read_model(tmp_path / f"{name}.onnx")[0] for name in ("of_file", "of_model"))
    assert identity(of_file) == identity(of_model)


def test_a_graph_that_overflows_is_refused_and_nothing_is_written(exported, tmp_path: Path) -> None:
    model, spec = read_model(exported("fcn8s-lite")[0])
    weight = next(t for t in model.graph.initializer if t.name == "conv5_3.weight")
    values = onnx.numpy_helper.to_array(weight) * np.float32(1e6)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    write_model(model, spec, tmp_path / "large.onnx")
    with pytest.raises(ExportError, match=r"fp16 ends at 65504|holds .* and fp16 ends"):
        convert_file_to_fp16(tmp_path / "large.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()
