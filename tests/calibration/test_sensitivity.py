"""What INT8 in one layer alone costs, and reports that may be used again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fcn_deploy.calibration import sensitivity
from fcn_deploy.calibration.pairs import default_layers
from fcn_deploy.calibration.quantization import quantize
from fcn_deploy.calibration.recipe import Fp32Model, Recipe
from fcn_deploy.calibration.sensitivity import LayerCost, Sensitivity, measure
from fcn_deploy.calibration.table import CalibrationTable, calibrate
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import CalibrationError
from fcn_deploy.export.graph.files import identity

VERSION_0_1 = Path(__file__).with_name("version_0_1")
"""What version 0.1 saved, of a network with these layers; its model's hash is replaced by the test."""


@pytest.fixture
def table(fp32, street) -> CalibrationTable:
    return calibrate(fp32.model, fp32.spec, CalibrationFrames(street, fp32.spec, max_frames=1))


def report(fp32: Fp32Model, *layers: str) -> Sensitivity:
    costs = tuple(LayerCost(name, 0.9, 0.5, 0.1) for name in layers or default_layers(fp32.model))
    return Sensitivity(identity(fp32.model), "cpu", "entropy", 8, costs)


def order(costs: list[LayerCost]) -> list[str]:
    return [cost.layer for cost in Sensitivity("m", "cpu", "entropy", 1, tuple(costs)).by_harm()]


def test_harm_is_lost_points_first_and_changed_labels_where_there_are_none() -> None:
    known = [LayerCost("a", 0.5, 0.1, 0), LayerCost("b", 0.9, 2.0, 0), LayerCost("c", 0.9, -1.0, 0)]
    assert [cost.layer for cost in Sensitivity("m", "cpu", "entropy", 1, tuple(known)).by_harm()] == [
        "b",
        "a",
        "c",
    ]
    unknown = [LayerCost("a", 0.9, None, 0), LayerCost("b", 0.5, None, 0), LayerCost("c", 1.0, None, 0)]
    assert [cost.layer for cost in Sensitivity("m", "cpu", "entropy", 1, tuple(unknown)).by_harm()] == [
        "b",
        "a",
        "c",
    ]


def test_each_layer_is_quantised_alone(fp32, street, table, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[set[str]] = []
    real = sensitivity.quantized_graph

    def watched(fp32, table, recipe):
        graph = real(fp32, table, recipe)
        quantised = {n.name for n in graph.graph.node if n.op_type == "Conv" and n.input[1].endswith(".dq")}
        tried.append(quantised)
        return graph

    monkeypatch.setattr(sensitivity, "quantized_graph", watched)
    frames = CalibrationFrames(street, fp32.spec, max_frames=2)
    steps: list[int] = []
    found = measure(fp32, table, Recipe("tensorrt"), frames, progress=lambda: steps.append(1))
    assert tried == [{name} for name in default_layers(fp32.model)]
    assert len(steps) == 16 and found.frames == 2
    assert all(cost.drop is None for cost in found.layers), "there are no labels to lose points on"


def test_layers_left_out_are_not_tried_and_the_report_says_so_later(fp32, street, table, tmp_path) -> None:
    left = tuple(default_layers(fp32.model)[1:])
    found = measure(fp32, table, Recipe("cpu", float_layers=left), LabelledFolder(street))
    assert [cost.layer for cost in found.layers] == ["conv1_1"]
    found.save(tmp_path / "s.json")
    assert Sensitivity.load(tmp_path / "s.json", fp32, Recipe("cpu", float_layers=left)) == found
    with pytest.raises(CalibrationError, match=r"s\.json does not cover conv1_2"):
        Sensitivity.load(tmp_path / "s.json", fp32, Recipe("cpu"))


@pytest.mark.parametrize("content", ["[]", "{", '{"layers": []}', '{"layers": [{"layer": "fc7"}]}'])
def test_another_file_is_no_report(fp32, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(CalibrationError, match=r"s\.json is no sensitivity report"):
        Sensitivity.load(tmp_path / "s.json", fp32, Recipe("cpu"))


@pytest.mark.parametrize("recipe", [Recipe("tensorrt"), Recipe("cpu", "minmax")], ids=lambda r: r.method)
def test_a_report_of_something_else_is_stale(fp32, tmp_path: Path, recipe: Recipe) -> None:
    report(fp32).save(tmp_path / "s.json")
    with pytest.raises(CalibrationError, match=r"s\.json is stale: .*target cpu, method entropy"):
        Sensitivity.load(tmp_path / "s.json", fp32, recipe)


def test_a_report_that_exists_is_read_and_nothing_measured(
    narrow, fp32, street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.calibration import quantization as module

    monkeypatch.setattr(module, "measure", lambda *_, **__: pytest.fail("measured again"))
    path = tmp_path / "s.json"
    report(fp32).save(path)
    before = path.read_bytes()
    quantize(narrow(), tmp_path / "x.onnx", calib=street, max_frames=1, target="cpu", sensitivity=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["stale", "broken"])
def test_a_report_that_cannot_be_used_fails_before_anything_is_written(
    narrow, fp32, street, tmp_path: Path, damage: str
) -> None:
    """Even where the budget holds with every layer in INT8, and so needs no report."""
    path, out = tmp_path / "s.json", tmp_path / "x.onnx"
    report(fp32).save(path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "model": "0" * 64}) if damage == "stale" else "{}")
    with pytest.raises(CalibrationError, match=r"s\.json is"):
        quantize(
            *(narrow(), out),
            **{"calib": street, "max_frames": 1, "target": "cpu", "sensitivity": path},
            **{"max_drop": 100, "data": street},
        )
    assert not out.exists()


def test_a_named_report_is_written_though_the_budget_needs_none(
    narrow, street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fp32
) -> None:
    from fcn_deploy.calibration import quantization as module

    calls: list[int] = []

    def measured(*_, **__):
        calls.append(1)
        return report(fp32)

    monkeypatch.setattr(module, "measure", measured)
    path = tmp_path / "s.json"
    quantize(
        *(narrow(), tmp_path / "x.onnx"),
        **{"calib": street, "max_frames": 1, "target": "cpu", "sensitivity": path},
        **{"max_drop": 100, "data": street},
    )
    assert path.exists() and calls == [1]


def test_a_report_of_version_0_1_is_read(fp32, tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    saved = json.loads((VERSION_0_1 / "sensitivity.json").read_text())
    path.write_text(json.dumps({**saved, "model": identity(fp32.model)}))
    read = Sensitivity.load(path, fp32, Recipe("cpu"))
    assert [dataclasses.asdict(cost) for cost in read.layers] == saved["layers"]
    assert (read.target, read.method, read.frames) == ("cpu", "entropy", 2)
