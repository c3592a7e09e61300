"""quantize: what the options make of a model, and calls that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image

from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.spec import METADATA_KEY

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(cli, traced_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, a tiny random network in fp32, and six labelled frames in clip/."""
    made = tmp_path_factory.mktemp("quantize")
    for words in (
        (
            *("export", "--weights", "random", "--variant", "fcn8s-lite", "--classes", "camvid"),
            *("--width", 2, "--fc-channels", 4, "-o", made / "model.onnx"),
        ),
        ("clip", made / "clip", "--frames", 6, "--size", "72x96"),
    ):
        with traced_once():
            result = cli(*words)
        assert result.exit_code == 0, result.output
    return made


@pytest.fixture
def quantize(cli, folder: Path, tmp_path: Path):
    """``quantize("--target", "cpu")``: a Result of a call that must succeed, writing out.onnx."""

    def call(*words: object, source: tuple[object, ...] = ()):
        source = source or ("--calib", folder / "clip" / "images")
        result = cli("quantize", folder / "model.onnx", *source, *words, "-o", tmp_path / "out.onnx")
        assert result.exit_code == 0, result.output
        return result

    return call


def record(path: Path) -> dict[str, object]:
    return read_spec(path).evidence["quantization"]


def test_every_option_reaches_the_file(quantize, tmp_path: Path) -> None:
    quantize(
        *("--target", "cpu", "--method", "percentile", "--percentile", 99.5, "--max-frames", 3),
        *("--size", "36x48", "--float-precision", "fp32", "--assume-vnni"),
        *("--float-layer", "conv1_1", "--float-layer", "fc6"),
    )
    found = record(tmp_path / "out.onnx")
    assert (found["target"], found["method"], found["percentile"]) == ("cpu", "percentile", 99.5)
    assert (found["frames"], found["sizes"], found["source"]) == (3, [[36, 48]], "images")
    assert (found["assume_vnni"], found["reduce_range"]) == (True, False)
    assert {"conv1_1", "fc6"} < set(found["float_layers"])
    assert read_spec(tmp_path / "out.onnx").precision == "int8"


def test_what_was_done_is_told_with_what_comes_next(quantize, tmp_path: Path) -> None:
    result = quantize("--target", "tensorrt")
    out = tmp_path / "out.onnx"
    assert f"Wrote {out}" in result.stdout
    assert f"Next: fcn-deploy build-engine {out}" in result.stdout
    assert "Warning: 6 frames to calibrate on is few" in result.stderr
    assert read_spec(out).precision == "int8+fp16"


def test_the_table_spares_the_frames(quantize, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    result = quantize("--target", "cpu", "--save-table", table)
    assert f"Wrote {table}" in result.stdout
    first = onnx.load(str(tmp_path / "out.onnx"))
    quantize("--target", "cpu", source=("--table", table))
    again = onnx.load(str(tmp_path / "out.onnx"))
    assert first.graph.SerializeToString() == again.graph.SerializeToString()
    assert record(tmp_path / "out.onnx")["agreement_with_fp32"].startswith("not checked")


def test_json_is_pure_and_complete(quantize, tmp_path: Path) -> None:
    words = ("--target", "cpu", "--sensitivity", tmp_path / "s.json", "--chart", tmp_path / "s.svg")
    facts = json.loads(quantize(*words, "--json").stdout)
    assert (facts["file"], facts["bytes"]) == (
        str(tmp_path / "out.onnx"),
        (tmp_path / "out.onnx").stat().st_size,
    )
    assert len(facts["sha256"]) == 64
    assert set(facts) == {"file", "bytes", "sha256", "seconds", "spec"}
    found = facts["spec"]["evidence"]["quantization"]
    assert found["frames"] == 6 and found["warnings"][0].startswith("6 frames to calibrate on is few")


def test_sensitivity_is_a_table_a_file_and_a_chart(quantize, folder: Path, tmp_path: Path) -> None:
    report, chart = tmp_path / "s.json", tmp_path / "s.svg"
    words = ("--target", "cpu", "--sensitivity", report, "--chart", chart, "--eval", folder / "clip")
    told = quantize(*words).stdout
    layers = [cost["layer"] for cost in json.loads(report.read_text())["layers"]]
    assert len(layers) == 15 and all(layer in told for layer in layers)
    assert "points lost" in told and f"Sensitivity in {report}" in told
    texts = [node.text for node in ElementTree.parse(chart).iter() if node.tag.endswith("text")]
    assert set(layers) < set(texts)
    before = report.read_bytes()
    quantize(*words)
    assert report.read_bytes() == before, "it was measured again"


def test_a_budget_that_holds_at_once_still_gives_the_report_that_was_named(
    quantize, folder: Path, tmp_path: Path
) -> None:
    report, chart = tmp_path / "s.json", tmp_path / "s.svg"
    quantize(
        *("--target", "cpu", "--max-drop", 100, "--eval", folder / "clip"),
        *("--sensitivity", report, "--chart", chart),
    )
    assert report.exists() and chart.exists()
    kept = record(tmp_path / "out.onnx")["budget"]["kept"]
    assert kept["float_layers"] == [] and kept["drop"] <= 100


def test_fp16_that_overflows_is_refused(fails, folder: Path, tmp_path: Path) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name in ("conv3_1.weight", "conv3_1.bias", "conv3_2.weight"):
            factor = np.float32(1e-7 if tensor.name == "conv3_2.weight" else 1e7)
            values = onnx.numpy_helper.to_array(tensor) * factor
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(tmp_path / "loud.onnx"))
    words = ("quantize", tmp_path / "loud.onnx", "--calib", folder / "clip" / "images", "-o")
    told = fails(1, *words, tmp_path / "x.onnx", "--target", "tensorrt")
    assert "conv3_2 reads values up to" in told or "conv3_1.weight holds" in told
    assert "fp32" in told
    assert not (tmp_path / "x.onnx").exists()


@pytest.fixture(scope="module")
def places(cli, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything that a wrong call can be made with."""
    root = tmp_path_factory.mktemp("wrong")
    (root / "empty").mkdir()
    for name, picture in (
        ("black", np.zeros((30, 40, 3), np.uint8)),
        ("noise", np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)),
    ):
        (root / name).mkdir()
        Image.fromarray(picture).save(root / name / "a.png")
    model, images = folder / "model.onnx", folder / "clip" / "images"
    words = ("--calib", images, "--target", "cpu", "--max-frames", 1, "-o", root / "done.onnx")
    assert cli("quantize", model, *words, "--save-table", root / "table.json").exit_code == 0
    other = json.loads((root / "table.json").read_text())
    (root / "stale.json").write_text(json.dumps({**other, "model": "0" * 64}))
    (root / "cut.json").write_text((root / "table.json").read_text()[:99])
    half = onnx.load(str(model))
    spec = read_spec(model).replace(precision="fp16")
    onnx.helper.set_model_props(half, {METADATA_KEY: spec.to_json()})
    onnx.save(half, str(root / "half.onnx"))
    return {"root": root, "model": model, "images": images, "data": folder / "clip"}


CALIB = ("--calib", "{images}", "--max-frames", "2")


@pytest.mark.parametrize(
    ("model", "words", "code", "part"),
    [
        ("{model}", (), 2, "give --calib with frames of your camera, or --table"),
        ("{model}", (*CALIB, "--table", "{root}/table.json"), 2, "or --table; one of the two"),
        ("{model}", ("--calib", "{root}/empty"), 2, "holds no image"),
        ("{model}", ("--calib", "random"), 2, "needs frames of your camera"),
        ("{model}", ("--calib", "{root}/none"), 2, "does not exist"),
        ("{model}", ("--calib", "{root}/black"), 2, "are blank"),
        ("{model}", ("--calib", "{root}/noise"), 2, "look like random noise"),
        ("{model}", ("--table", "{root}/stale.json"), 1, "is stale"),
        ("{model}", ("--table", "{root}/cut.json"), 1, "is no calibration table"),
        ("{model}", ("--table", "{root}/none.json"), 2, "none.json does not exist"),
        ("{model}", ("--table", "{root}/table.json", "--percentile", "99"), 2, "made with percentile 99.99"),
        ("{root}/done.onnx", CALIB, 2, "is quantised already"),
        ("{root}/half.onnx", CALIB, 2, "is fp16"),
        ("none.onnx", CALIB, 2, "none.onnx does not exist"),
        ("{model}", (*CALIB, "--max-drop", "1"), 2, "give --eval FOLDER with it"),
        ("{model}", (*CALIB, "--max-drop", "nan", "--eval", "{data}"), 2, "greater than or equal to 0"),
        ("{model}", (*CALIB, "--eval", "{data}"), 2, "--eval is for --max-drop or --sensitivity"),
        ("{model}", (*CALIB, "--sensitivity", "{root}/s.json", "--eval", "{images}"), 2, "has no labels"),
        ("{model}", (*CALIB, "--chart", "{root}/c.svg"), 2, "give --sensitivity FILE with it"),
        ("{model}", (*CALIB, "--chart", "{root}/c.png", "--sensitivity", "{root}/s.json"), 2, "end in .svg"),
        ("{model}", (*CALIB, "--save-table", "{root}/t.txt"), 2, "must end in .json"),
        ("{model}", (*CALIB, "--float-layer", "conv9"), 2, "no convolution conv9; choose from conv1_1"),
        ("{model}", (*CALIB, "--float-precision", "fp16"), 2, "a CPU gains nothing from fp16"),
        ("{model}", (*CALIB, "--percentile", "40"), 2, "above 50 and at most 100"),
        ("{model}", (*CALIB, "--size", "0x4"), 2, "expected height x width"),
        (
            "{model}",
            ("--table", "{root}/table.json", "--sensitivity", "{root}/s.json"),
            2,
            "measured on frames",
        ),
    ],
)
def test_wrong_calls(fails, places, tmp_path: Path, model: str, words, code: int, part: str) -> None:
    before = sorted(places["root"].rglob("*"))
    call = [model, *words, "--target", "cpu", "-o", str(tmp_path / "x.onnx")]
    assert part in fails(code, "quantize", *(word.format(**places) for word in call))
    assert not list(tmp_path.iterdir()), "something was written"
    assert sorted(places["root"].rglob("*")) == before


def test_the_model_itself_is_never_overwritten(fails, places) -> None:
    before = places["model"].read_bytes()
    words = ("quantize", places["model"], "--calib", places["images"], "--target", "cpu", "-o")
    assert "is the model itself" in fails(2, *words, places["model"])
    assert places["model"].read_bytes() == before


def test_a_budget_that_cannot_be_kept_leaves_the_old_file(
    fails, places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.calibration import budget

    scores = iter([0.9, *[0.1] * 20])
    monkeypatch.setattr(budget, "_evaluate", lambda *_: next(scores))
    out = tmp_path / "x.onnx"
    out.write_bytes(b"the old one")
    words = ("quantize", places["model"], "--calib", places["images"], "--target", "cpu", "-o", out)
    told = fails(1, *words, "--max-drop", 0.5, "--eval", places["data"])
    assert "cannot be kept within 0.5 points" in told and "lost 80.00 points" in told
    assert out.read_bytes() == b"the old one"


@pytest.mark.parametrize(
    "words",
    [
        (*CALIB, "-o", "x.onnx"),
        (*CALIB, "-o", "x.onnx", "--target", "gpu"),
        (*CALIB, "-o", "x.onnx", "--target", "cpu", "--method", "mse"),
        (*CALIB, "-o", "x.onnx", "--target", "cpu", "--max-frames", "0"),
        (*CALIB, "-o", "x.onnx", "--target", "cpu", "--max-drop", "-1"),
        (*CALIB, "--target", "cpu"),
    ],
    ids=" ".join,
)
def test_calls_that_cannot_be_parsed(cli, places, words) -> None:
    assert cli("quantize", places["model"], *(word.format(**places) for word in words)).exit_code == 2
