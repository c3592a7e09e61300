"""``quantize`` on networks that are no FCN-8s: the verb, a budget, layers left out, tables kept."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from small_networks import NETWORKS, spec_of

import fcn_deploy
from fcn_deploy.calibration.pairs import default_layers
from fcn_deploy.calibration.recipe import open_fp32
from fcn_deploy.calibration.table import CalibrationTable
from fcn_deploy.data.images import write_labels
from fcn_deploy.errors import CalibrationError, UsageError
from fcn_deploy.export.graph import watch
from fcn_deploy.export.graph.files import write_model


@pytest.fixture
def artefact(tmp_path: Path):
    """``artefact(name)``: the fp32 ONNX artefact of a small network."""

    def write(name: str, model: onnx.ModelProto | None = None) -> Path:
        path = tmp_path / f"{name}.onnx"
        write_model(model or NETWORKS[name](), spec_of(name), path)
        return path

    return write


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", NETWORKS)
def test_frames_become_an_artefact_that_runs(artefact, street, tmp_path, name: str, target: str) -> None:
    path, out = artefact(name), tmp_path / "int8.onnx"
    result = fcn_deploy.quantize(path, out, calib=street, target=target, save_table=tmp_path / "t.json")
    record = result.spec.evidence["quantization"]
    assert record["int8_layers"] == default_layers(open_fp32(path).model, target)
    assert record["agreement_with_fp32"]["label_agreement"] > 0.9
    with fcn_deploy.load(out, device="cpu") as segmenter:
        assert segmenter.infer(np.zeros((64, 96, 3), np.uint8)).labels.shape == (1, 64, 96)
    again = fcn_deploy.quantize(path, tmp_path / "again.onnx", table=tmp_path / "t.json", target=target)
    weights = [onnx.load(each).graph.SerializeToString() for each in (out, again.path)]
    assert weights[0] == weights[1]


def test_a_layer_left_out_by_name_stays_in_float_and_an_unknown_one_is_told(
    artefact, street, tmp_path
) -> None:
    asked = {"calib": street, "target": "cpu"}
    path = artefact("residual")
    result = fcn_deploy.quantize(path, tmp_path / "a.onnx", float_layers=("a.shortcut",), **asked)
    assert "a.shortcut" in result.spec.evidence["quantization"]["float_layers"]
    with pytest.raises(UsageError, match=r"no convolution conv1_1; choose from first, a\.1"):
        fcn_deploy.quantize(path, tmp_path / "b.onnx", float_layers=("conv1_1",), **asked)


def uneven(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy where one channel of ``a.1`` is a thousand times the others, and is undone behind it: one scale
    for all of them leaves nothing of the rest."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("a.1.weight", "a.1.bias"):
            values[0] *= 1000
        elif tensor.name == "a.2.weight":
            values[:, 0] /= 1000
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return changed


def labelled_by(path: Path, street: Path, folder: Path) -> Path:
    """The frames of the street with the labels of an fp32 artefact, so that any other label is a loss."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    with fcn_deploy.load(path, device="cpu") as segmenter:
        for image in sorted((street / "images").iterdir()):
            shutil.copy(image, folder / "images")
            pixels = np.asarray(Image.open(image).convert("RGB"))
            write_labels(folder / "labels" / image.name, segmenter.infer(pixels).labels[0])
    return folder


def test_a_budget_leaves_out_the_layers_that_int8_hurts(artefact, street, tmp_path) -> None:
    path = artefact("residual", uneven(NETWORKS["residual"]()))
    data = labelled_by(path, street, tmp_path / "data")
    asked = {"calib": street, "target": "cpu", "method": "minmax", "data": data, "max_drop": 8.0}
    result = fcn_deploy.quantize(path, tmp_path / "a.onnx", sensitivity=tmp_path / "s.json", **asked)
    assert result.sensitivity is not None and result.budget is not None
    ranked = result.sensitivity.by_harm()
    assert {cost.layer for cost in ranked[:2]} == {"a.1", "a.2"}, "one makes the tensor, the other reads it"
    assert {cost.layer for cost in ranked} == set(default_layers(open_fp32(path).model, "cpu"))
    assert result.budget.fp32_mean_iu == 1 and result.budget.trials[0].drop > 8 >= result.budget.kept.drop
    assert {"a.1", "a.2"} <= set(result.spec.evidence["quantization"]["float_layers"])


def test_little_memory_gives_the_same_table(artefact, street, tmp_path, monkeypatch) -> None:
    """Where the activations of a frame do not fit, it passes several times."""
    path = artefact("residual")
    tables = []
    for limit in (1 << 29, 1 << 18):
        monkeypatch.setattr(watch, "_BYTES_AT_ONCE", limit)
        kept = tmp_path / f"{limit}.json"
        fcn_deploy.quantize(path, tmp_path / "a.onnx", calib=street, target="cpu", save_table=kept)
        tables.append(CalibrationTable.load(kept, open_fp32(path).model))
    assert tables[0] == tables[1]


def test_a_table_without_a_tensor_that_is_needed_is_stale(artefact, street, tmp_path) -> None:
    path = artefact("residual")
    kept = tmp_path / "t.json"
    fcn_deploy.quantize(path, tmp_path / "a.onnx", calib=street, target="cpu", save_table=kept)
    table = CalibrationTable.load(kept, open_fp32(path).model)
    fewer = {tensor: limits for tensor, limits in table.measured.items() if tensor != "a.shortcut"}
    dataclasses.replace(table, measured=fewer).save(kept)
    with pytest.raises(CalibrationError, match="is stale"):
        CalibrationTable.load(kept, open_fp32(path).model)
