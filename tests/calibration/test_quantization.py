"""quantize: from an fp32 artefact and frames to an INT8 artefact that says what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fcn_deploy
from fcn_deploy.calibration import budget, sensitivity
from fcn_deploy.calibration import quantization as quantizing
from fcn_deploy.calibration.recipe import Recipe, layer_costs, open_subject
from fcn_deploy.calibration.sensitivity import LayerCost, Sensitivity
from fcn_deploy.calibration.table import CalibrationTable, calibrate, doubt_of_order
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import CalibrationError, ModelError, UsageError
from fcn_deploy.export.graph.files import identity, read_model, write_model
from fcn_deploy.export.precision import to_fp16


def test_the_artefact_says_what_was_done_and_runs(narrow, street, tmp_path) -> None:
    out = tmp_path / "int8.onnx"
    spec = fcn_deploy.quantize(narrow(), out, calib=street, target="cpu", method="percentile")
    _, read = read_model(out)
    parent, _ = read_model(narrow())
    assert read == spec and spec.precision == "int8"
    assert spec.provenance[0]["sha256"] == identity(parent)
    record = spec.evidence["quantization"]
    assert (record["target"], record["method"], record["percentile"]) == ("cpu", "percentile", 99.99)
    assert record["frames"] == 8 and len(record["frames_sha256"]) == 64
    assert record["int8_layers"][0] == "conv1_1" and record["float_layers"] == [
        *("score_fr", "score_pool4", "score_pool3"),
    ]
    assert record["reduce_range"] and not record["assume_vnni"]
    assert record["agreement_with_fp32"]["label_agreement"] > 0.8
    assert "parity" not in spec.evidence and "parent_parity" in spec.evidence
    with fcn_deploy.load(out, device="cpu") as segmenter:
        assert segmenter.infer(np.zeros((31, 45, 3), np.uint8)).labels.shape == (1, 31, 45)


@pytest.mark.parametrize(
    ("rest", "precision"), [(None, "int8+fp16"), ("fp16", "int8+fp16"), ("fp32", "int8")]
)
def test_tensorrt_s_rest_is_fp16_unless_told(narrow, street, tmp_path, rest, precision) -> None:
    spec = fcn_deploy.quantize(narrow(), tmp_path / "x.onnx", calib=street, target="tensorrt", rest=rest)
    assert spec.precision == precision


def test_onnx_runtime_keeps_the_labels_of_an_int8_fp16_graph(bundled, street, tmp_path) -> None:
    """One of its passes turned fp16 biases into infinity, and 4 % of the labels into others."""
    spec = fcn_deploy.quantize(bundled, tmp_path / "x.onnx", calib=street, target="tensorrt")
    assert spec.evidence["quantization"]["agreement_with_fp32"]["label_agreement"] > 0.975


def test_a_table_gives_the_same_file_as_its_frames(narrow, street, tmp_path) -> None:
    table = tmp_path / "table.json"
    for method in ("minmax", "entropy"):
        given = {"calib": street, "save_table": table} if method == "minmax" else {"calib": street}
        fcn_deploy.quantize(narrow(), tmp_path / "a.onnx", target="cpu", method=method, **given)
        fcn_deploy.quantize(narrow(), tmp_path / "b.onnx", target="cpu", method=method, table=table)
        a, b = (read_model(tmp_path / name)[0] for name in ("a.onnx", "b.onnx"))
        assert identity(a) == identity(b)


def test_a_stale_or_damaged_table_is_refused_and_nothing_written(narrow, street, tmp_path) -> None:
    table = tmp_path / "table.json"
    fcn_deploy.quantize(narrow(), tmp_path / "a.onnx", target="cpu", calib=street, save_table=table)
    out = tmp_path / "b.onnx"
    with pytest.raises(CalibrationError, match=r"table\.json is stale"):
        fcn_deploy.quantize(narrow("fcn8s", classes=5), out, target="cpu", table=table)
    table.write_text(table.read_text()[:200])
    with pytest.raises(CalibrationError, match=r"table\.json is no calibration table"):
        fcn_deploy.quantize(narrow(), out, target="cpu", table=table)
    assert not out.exists()


def test_what_is_not_fp32_any_more_is_refused(narrow, street, tmp_path) -> None:
    quantised, half = tmp_path / "q.onnx", tmp_path / "h.onnx"
    fcn_deploy.quantize(narrow(), quantised, calib=street, target="cpu")
    model, spec = read_model(narrow())
    write_model(to_fp16(model), spec.replace(precision="fp16"), half)
    for path, told in ((quantised, "quantised already"), (half, "is fp16")):
        with pytest.raises(ModelError, match=f"{told}.*start from the fp32 file"):
            fcn_deploy.quantize(path, tmp_path / "x.onnx", calib=street, target="cpu")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"target": "tpu"}, "target must be one of tensorrt, cpu"),
        ({"target": "cpu", "method": "mean"}, "method must be one of minmax, percentile, entropy"),
        ({"target": "cpu", "rest": "fp16"}, "a CPU gains nothing from fp16"),
        ({"target": "tensorrt", "assume_vnni": True}, "assume_vnni is about CPUs"),
        ({"target": "cpu", "max_drop": 1.0}, "measured on labelled frames"),
        ({"target": "cpu", "max_drop": -1.0, "data": "x"}, "must be at least 0"),
        ({"target": "cpu", "max_drop": float("nan"), "data": "x"}, "must be at least 0"),
        ({"target": "cpu", "max_frames": 0}, "max_frames must be at least 1"),
        ({"target": "cpu", "table": "t.json"}, "one of the two"),
    ],
)
def test_wrong_calls_are_told(narrow, street, tmp_path, arguments, told) -> None:
    with pytest.raises(UsageError, match=told):
        fcn_deploy.quantize(narrow(), tmp_path / "x.onnx", calib=street, **arguments)


def test_swapped_channels_are_told_by_how_sure_the_model_is() -> None:
    assert doubt_of_order([[6.0, 4.1], [5.5, 4.0]]) == []
    assert doubt_of_order([[5.0, 5.5]]) == [], "a little surer means nothing"
    (told,) = doubt_of_order([[4.1, 6.0], [4.0, 5.5]])
    assert "surer of these frames with B and R swapped (lead 5.75 against 4.05)" in told


def test_sensitivity_names_every_layer_and_is_read_back(narrow, street, tmp_path) -> None:
    subject, recipe = open_subject(narrow()), Recipe("cpu")
    frames = CalibrationFrames(street, subject.spec, max_frames=2)
    table = calibrate(subject.model, subject.spec, frames)
    found = sensitivity.measure(subject, table, recipe, LabelledFolder(street))
    assert len(found.layers) == 15 and found.worst_first() != [cost.layer for cost in found.layers]
    assert all(0 <= cost.label_agreement <= 1 and cost.drop is not None for cost in found.layers)
    assert sum(layer_costs(subject.model).values()) == pytest.approx(1)
    path = tmp_path / "layers.json"
    found.save(path)
    assert Sensitivity.load(path, subject, recipe) == found
    with pytest.raises(CalibrationError, match=r"layers\.json is stale"):
        Sensitivity.load(path, subject, Recipe("tensorrt"))
    path.write_text("{}")
    with pytest.raises(CalibrationError, match=r"layers\.json is no sensitivity report"):
        Sensitivity.load(path, subject, recipe)


def ranked(subject, drops: dict[str, float]) -> Sensitivity:
    costs = tuple(LayerCost(name, 1 - drop / 100, drop, 0.1) for name, drop in drops.items())
    return Sensitivity(identity(subject.model), "cpu", "entropy", 1, costs)


class TestBudget:
    """The search, on made-up scores: each layer in INT8 costs its share."""

    DROPS = {f"conv{i}": float(d) for i, d in enumerate([3, 1, 5, 2, 0.5, 0.1])}  # noqa: RUF012

    def search(self, monkeypatch, narrow, street, max_drop: float):
        subject = open_subject(narrow())
        evaluated: list[float] = []

        def evaluate(model, subject, data):
            left = model if isinstance(model, tuple) else tuple(self.DROPS)
            cost = sum(d for name, d in self.DROPS.items() if name not in left)
            evaluated.append(cost)
            return 0.6 - cost / 100

        monkeypatch.setattr(budget, "make", lambda subject, table, recipe: recipe.float_layers)
        monkeypatch.setattr(budget, "_evaluate", evaluate)
        monkeypatch.setattr(budget, "_slowdown", lambda *_: 1.5)
        monkeypatch.setattr(budget, "layer_costs", lambda _: dict.fromkeys(self.DROPS, 0.1))
        recipe, report = budget.within_budget(
            subject,
            None,
            Recipe("cpu"),
            LabelledFolder(street),
            max_drop,
            ranking=lambda: ranked(subject, self.DROPS),
        )
        return recipe, report, evaluated

    def test_nothing_is_left_out_where_all_int8_is_good_enough(self, monkeypatch, narrow, street) -> None:
        recipe, report, evaluated = self.search(monkeypatch, narrow, street, 12)
        assert recipe.float_layers == () and len(evaluated) == 2 and report.float_work == 0

    @pytest.mark.parametrize(
        ("max_drop", "left"), [(6.7, 1), (4, 2), (2, 3), (1, 4), (0.2, 5)], ids=lambda value: str(value)
    )
    def test_the_fewest_of_the_worst_are_left_out(self, monkeypatch, narrow, street, max_drop, left) -> None:
        recipe, report, evaluated = self.search(monkeypatch, narrow, street, max_drop)
        assert recipe.float_layers == ("conv2", "conv0", "conv3", "conv1", "conv4")[:left]
        assert report.kept.drop <= max_drop and report.slowdown == 1.5
        assert len(evaluated) <= 2 + 3, "bisection, not one after the other"

    def test_a_budget_that_cannot_be_kept_says_the_best(self, monkeypatch, narrow, street) -> None:
        with pytest.raises(CalibrationError, match=r"the best of \d tries lost 0\.10 points .*conv4"):
            self.search(monkeypatch, narrow, street, 0.05)


def test_a_budget_is_kept_on_real_scores_and_recorded(bundled, street, tmp_path) -> None:
    out, report = tmp_path / "x.onnx", tmp_path / "layers.json"
    spec = fcn_deploy.quantize(
        bundled, out, calib=street, target="cpu", max_drop=3.0, data=street, sensitivity=report
    )
    record = spec.evidence["quantization"]["budget"]
    assert record["kept"]["drop"] <= 3.0 and record["data"] == "images"
    with fcn_deploy.load(out, device="cpu") as segmenter:
        from fcn_deploy.evaluation import evaluate

        found = evaluate(segmenter, LabelledFolder(street))
    assert found.mean_iu == pytest.approx(record["kept"]["mean_iu"])


def test_an_impossible_budget_writes_nothing(narrow, street, tmp_path, monkeypatch) -> None:
    scores = iter([0.9, *[0.1] * 20])
    monkeypatch.setattr(budget, "_evaluate", lambda *_: next(scores))
    monkeypatch.setattr(
        quantizing,
        "measure",
        lambda subject, *_, **__: ranked(subject, dict.fromkeys(("conv1_1", "conv3_2", "fc6"), 1.0)),
    )
    out = tmp_path / "x.onnx"
    with pytest.raises(CalibrationError, match=r"cannot be kept within 0\.5 points"):
        fcn_deploy.quantize(narrow(), out, calib=street, target="cpu", max_drop=0.5, data=street)
    assert not out.exists()


def test_the_table_is_plain_json(narrow, street, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    fcn_deploy.quantize(narrow(), tmp_path / "a.onnx", target="cpu", calib=street, save_table=table)
    data = json.loads(table.read_text())
    assert set(data["limits"]["fc7"]) == {"minmax", "percentile", "entropy-tensorrt", "entropy-cpu"}
    subject = open_subject(narrow())
    assert CalibrationTable.load(table, subject.model).ranges("minmax", "cpu")["conv1_1"][0] < 0
