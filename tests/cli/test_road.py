"""The whole road once, nothing replaced: export, clip, run, eval, inspect, bench."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

TINY = (
    *("--weights", "random", "--variant", "fcn8s-lite", "--classes", "camvid"),
    *("--width", 4, "--fc-channels", 8),
)


@pytest.fixture(scope="module")
def road(cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, model.safetensors of the same weights, and a clip."""
    folder = tmp_path_factory.mktemp("road")
    for words in (
        ("export", *TINY, "--outputs", "labels,confidence", "-o", folder / "model.onnx"),
        ("export", *TINY, "-o", folder / "model.safetensors"),
        ("clip", folder / "clip", "--frames", 3, "--size", "72x96"),
    ):
        result = cli(*words)
        assert result.exit_code == 0, result.output
    return folder


def test_inspect_shows_the_parity_that_export_proved(cli, road: Path) -> None:
    told = cli("inspect", road / "model.onnx").stdout
    assert "8 sizes against fcn8s-lite: " in told
    assert "random weights: labels mean nothing" in told
    facts = json.loads(cli("inspect", road / "model.onnx", "--json").stdout)
    parity = facts["spec"]["evidence"]["parity"]
    assert parity["max_relative_error"] < 1e-4
    assert parity["differences_beyond_ties"] == 0
    assert facts["contents"]["opset"] <= 20
    assert facts["contents"]["ir_version"] <= 10


def test_both_backends_paint_the_same_labels(cli, road: Path, tmp_path: Path) -> None:
    maps = []
    for name in ("model.onnx", "model.safetensors"):
        out = tmp_path / name
        result = cli("run", road / name, road / "clip" / "images", "--masks", out, "--json")
        assert json.loads(result.stdout)["frames"] == 3
        maps.append(np.stack([np.asarray(Image.open(path)) for path in sorted(out.iterdir())]))
    assert (maps[0] == maps[1]).mean() > 0.999


def test_overlay_and_confidence(cli, road: Path, tmp_path: Path) -> None:
    words = ("--overlay", tmp_path / "overlay.mp4", "--confidence", tmp_path / "confidence")
    result = cli("run", road / "model.onnx", road / "clip" / "images", *words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "overlay.mp4").stat().st_size > 0
    assert len(list((tmp_path / "confidence").iterdir())) == 3


def test_eval_side_by_side(cli, road: Path) -> None:
    words = (road / "model.safetensors", road / "model.onnx", "--data", road / "clip", "--json", "-")
    first, second = json.loads(cli("eval", *words).stdout)["results"]
    assert [first["backend"], second["backend"]] == ["pytorch", "onnxruntime"]
    assert first["pixel_accuracy"] == pytest.approx(second["pixel_accuracy"], abs=1e-3)


def test_bench_measures_and_compares(cli, road: Path, tmp_path: Path) -> None:
    result = cli(
        *("bench", road / "model.onnx", "--size", "72x96", "--rounds", 2, "--seconds", 0.2),
        *("--frames", road / "clip" / "images", "--json", "-", "--report", tmp_path / "report.html"),
    )
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["latency_ms"]["p50"] > 0
    assert row["agreement"]["share"] > 0.999
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()
