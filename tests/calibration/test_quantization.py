"""quantize: from an fp32 artefact and frames to an INT8 artefact that says what was done."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import fcn_deploy
from fcn_deploy.calibration import budget, sensitivity
from fcn_deploy.calibration import quantization as quantizing
from fcn_deploy.calibration.recipe import Recipe, layer_costs, open_fp32
from fcn_deploy.calibration.result import LabelAgreement
from fcn_deploy.calibration.sensitivity import LayerCost, Sensitivity
from fcn_deploy.calibration.table import CalibrationTable, calibrate, order_warning
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import CalibrationError, ModelError, UsageError
from fcn_deploy.export.graph.files import identity, read_model, write_model
from fcn_deploy.export.precision import to_fp16
from fcn_deploy.files import sha256_of
from fcn_deploy.runtimes import artefact


def test_the_artefact_says_what_was_done_and_runs(narrow, street, tmp_path) -> None:
    out = tmp_path / "int8.onnx"
    result = fcn_deploy.quantize(narrow(), out, calib=street, target="cpu", method="percentile")
    spec = result.spec
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


def test_the_parent_is_named_as_its_file_is_also_with_weights_beside_it(
    narrow, street, tmp_path, monkeypatch
) -> None:
    for module in ("files", "session"):
        monkeypatch.setattr(f"fcn_deploy.export.graph.{module}.SINGLE_FILE_LIMIT", 1000)
    parent = tmp_path / "parent.onnx"
    write_model(*read_model(narrow()), parent)
    assert len(list(tmp_path.iterdir())) == 2, "the graph and its weights"
    result = fcn_deploy.quantize(parent, tmp_path / "int8.onnx", calib=street, target="cpu")
    assert result.spec.provenance[0]["sha256"] == artefact.identity(parent)


@pytest.mark.parametrize(
    ("float_precision", "precision"), [(None, "int8+fp16"), ("fp16", "int8+fp16"), ("fp32", "int8")]
)
def test_what_is_not_int8_is_fp16_for_tensorrt_unless_stated(
    narrow, street, tmp_path, float_precision, precision
) -> None:
    result = fcn_deploy.quantize(
        narrow(), tmp_path / "x.onnx", calib=street, target="tensorrt", float_precision=float_precision
    )
    assert result.spec.precision == precision


def test_the_result_says_what_was_found_and_shows_itself(narrow, street, tmp_path) -> None:
    out, report = tmp_path / "int8.onnx", tmp_path / "layers.json"
    result = fcn_deploy.quantize(narrow(), out, calib=street, target="cpu", max_frames=2, sensitivity=report)
    record = result.spec.evidence["quantization"]
    assert (result.path, result.bytes, result.sha256) == (out, out.stat().st_size, sha256_of(out))
    assert dataclasses.asdict(result.agreement) == record["agreement_with_fp32"]
    assert list(result.warnings)[: len(record["warnings"])] == record["warnings"]
    assert "2 frames to calibrate on is few" in result.warnings[0]
    fp32 = open_fp32(narrow())
    assert result.sensitivity == Sensitivity.load(report, fp32, Recipe("cpu"))
    assert result.budget is None and result.seconds > 0
    shown = result.summary()
    assert shown[0][1].startswith(f"{out} (") and ("precision", "int8") in shown
    assert [value for name, value in shown if name == "warning"] == list(result.warnings)
    assert repr(result).splitlines()[0] == "QuantizationResult"
    written = result.to_dict()
    assert json.loads(json.dumps(written)) == written
    assert list(written) == ["file", "bytes", "sha256", "seconds", "spec"]
    assert written["spec"] == json.loads(result.spec.to_json())


def test_a_table_alone_leaves_the_agreement_open(narrow, street, tmp_path) -> None:
    table, out = tmp_path / "table.json", tmp_path / "a.onnx"
    frames = fcn_deploy.quantize(narrow(), out, target="cpu", calib=street, max_frames=2, save_table=table)
    result = fcn_deploy.quantize(narrow(), out, target="cpu", table=table)
    assert result.agreement is None and result.sensitivity is None
    assert frames.warnings[0] == result.warnings[0], "what speaks against the frames stays with their table"


def test_few_equal_labels_are_a_warning(narrow, street, tmp_path, monkeypatch) -> None:
    for share, warned in ((0.96, True), (0.98, False)):
        monkeypatch.setattr(quantizing, "compare_labels", lambda *_, s=share: LabelAgreement(8, s, s))
        result = fcn_deploy.quantize(narrow(), tmp_path / "x.onnx", calib=street, target="cpu")
        assert any(told.startswith("only 96.00% of labels") for told in result.warnings) == warned


def test_onnx_runtime_keeps_the_labels_of_an_int8_fp16_graph(bundled, street, tmp_path) -> None:
    """One of its passes turned fp16 biases into infinity, and 4 % of the labels into others."""
    result = fcn_deploy.quantize(bundled, tmp_path / "x.onnx", calib=street, target="tensorrt")
    assert result.agreement.label_agreement > 0.975


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
        ({"target": "cpu", "float_precision": "fp16"}, "a CPU gains nothing from fp16"),
        ({"target": "tensorrt", "assume_vnni": True}, "assume_vnni is about CPUs"),
        ({"target": "cpu", "max_drop": 1.0}, "measured on labelled frames"),
        ({"target": "cpu", "max_drop": -1.0, "data": "x"}, "must be at least 0"),
        ({"target": "cpu", "max_drop": float("nan"), "data": "x"}, "must be at least 0"),
        ({"target": "cpu", "max_frames": 0}, "max_frames must be a whole number of at least 1"),
        ({"target": "cpu", "table": "t.json"}, "one of the two"),
    ],
)
def test_wrong_calls_are_told(narrow, street, tmp_path, arguments, told) -> None:
    with pytest.raises(UsageError, match=told):
        fcn_deploy.quantize(narrow(), tmp_path / "x.onnx", calib=street, **arguments)


def test_swapped_channels_are_told_by_how_sure_the_model_is() -> None:
    assert order_warning([[6.0, 4.1], [5.5, 4.0]]) == []
    assert order_warning([[5.0, 5.5]]) == [], "a little surer means nothing"
    (told,) = order_warning([[4.1, 6.0], [4.0, 5.5]])
    assert "more certain of these frames with B and R swapped (lead 5.75 against 4.05)" in told


def test_sensitivity_names_every_layer_and_is_read_back(narrow, street, tmp_path) -> None:
    fp32, recipe = open_fp32(narrow()), Recipe("cpu")
    frames = CalibrationFrames(street, fp32.spec, max_frames=2)
    table = calibrate(fp32.model, fp32.spec, frames)
    found = sensitivity.measure(fp32, table, recipe, LabelledFolder(street))
    assert len(found.layers) == 15 and [cost.layer for cost in found.by_harm()] != [
        cost.layer for cost in found.layers
    ]
    assert all(0 <= cost.label_agreement <= 1 and cost.drop is not None for cost in found.layers)
    assert sum(layer_costs(fp32).values()) == pytest.approx(1)
    path = tmp_path / "layers.json"
    found.save(path)
    assert Sensitivity.load(path, fp32, recipe) == found
    with pytest.raises(CalibrationError, match=r"layers\.json is stale"):
        Sensitivity.load(path, fp32, Recipe("tensorrt"))
    path.write_text("{}")
    with pytest.raises(CalibrationError, match=r"layers\.json is no sensitivity report"):
        Sensitivity.load(path, fp32, recipe)


def ranked(fp32, drops: dict[str, float]) -> Sensitivity:
    costs = tuple(LayerCost(name, 1 - drop / 100, drop, 0.1) for name, drop in drops.items())
    return Sensitivity(identity(fp32.model), "cpu", "entropy", 1, costs)


class TestBudget:
    """The search, on made-up scores: each layer in INT8 costs its share."""

    DROPS = {f"conv{i}": float(d) for i, d in enumerate([3, 1, 5, 2, 0.5, 0.1])}  # noqa: RUF012

    def search(self, monkeypatch, narrow, street, max_drop: float):
        fp32 = open_fp32(narrow())
        evaluated: list[float] = []

        def evaluate(model, fp32, data):
            left = model if isinstance(model, tuple) else tuple(self.DROPS)
            cost = sum(d for name, d in self.DROPS.items() if name not in left)
            evaluated.append(cost)
            return 0.6 - cost / 100

        monkeypatch.setattr(budget, "quantized_graph", lambda fp32, table, recipe: recipe.float_layers)
        monkeypatch.setattr(budget, "_evaluate", evaluate)
        monkeypatch.setattr(budget, "_slowdown", lambda *_: 1.5)
        monkeypatch.setattr(budget, "layer_costs", lambda _: dict.fromkeys(self.DROPS, 0.1))
        recipe, report = budget.within_budget(
            fp32,
            None,
            Recipe("cpu"),
            LabelledFolder(street),
            max_drop,
            ranking=lambda: ranked(fp32, self.DROPS),
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
    result = fcn_deploy.quantize(
        bundled, out, calib=street, target="cpu", max_drop=3.0, data=street, sensitivity=report
    )
    record = result.spec.evidence["quantization"]["budget"]
    assert json.loads(json.dumps(result.budget.to_dict())) == json.loads(json.dumps(record))
    assert f"{record['kept']['drop']:.2f} points lost" in repr(result)
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
        lambda fp32, *_, **__: ranked(fp32, dict.fromkeys(("conv1_1", "conv3_2", "fc6"), 1.0)),
    )
    out = tmp_path / "x.onnx"
    with pytest.raises(CalibrationError, match=r"cannot be kept within 0\.5 points"):
        fcn_deploy.quantize(narrow(), out, calib=street, target="cpu", max_drop=0.5, data=street)
    assert not out.exists()


def test_the_table_is_plain_json(narrow, street, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    fcn_deploy.quantize(narrow(), tmp_path / "a.onnx", target="cpu", calib=street, save_table=table)
    data = json.loads(table.read_text())
    assert set(data["measured"]["fc6.relu"]) == {"minmax", "percentile", "entropy-tensorrt", "entropy-cpu"}
    fp32 = open_fp32(narrow())
    assert CalibrationTable.load(table, fp32.model).ranges("minmax", "cpu")["sub1"][0] < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "v01.onnx"}, "is the model itself"),
        ({"output": "q.txt"}, r"q\.txt: the name must end in \.onnx"),
        ({"output": "none/q.onnx"}, "create it first"),
        ({"size": 64}, "size must be a height and a width"),
        ({"max_frames": 0}, "max_frames must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_the_frames_are_read(
    changes: dict[str, object], message: str, street: Path, tmp_path: Path
) -> None:
    model = tmp_path / "v01.onnx"
    original = (Path(__file__).parents[1] / "fixtures" / "v0_1" / "v01.onnx").read_bytes()
    model.write_bytes(original)
    call = {"output": "q.onnx", "calib": street, "target": "cpu", **changes}
    steps: list[str] = []
    with pytest.raises(UsageError, match=message):
        fcn_deploy.quantize(model, tmp_path / str(call.pop("output")), **call, progress=steps.append)
    assert (model.read_bytes(), steps) == (original, [])
