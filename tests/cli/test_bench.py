"""bench: what reaches the method, and where its report goes. The method has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.bench import method, pictures
from fcn_deploy.bench.results import Agreement, BenchmarkResult, Latency, Percentiles, Row, Stages

LATENCY = Latency(p50=4.0, p90=5.0, p99=6.0, min=3.5, iqr=0.3, rounds=(4.0, 4.1), round_spread=0.02)
STAGE = Percentiles(p50=1.0, p90=1.0, p99=1.0)


def row(artefact: Path, **fields: object) -> Row:
    measured = {
        **{"latency_ms": LATENCY, "stages_ms": Stages(STAGE, STAGE, STAGE), "frames_per_second": 250.0},
        "agreement": Agreement(share=0.99912, frames=8, reference="a checkpoint"),
    }
    name = artefact.name
    return Row(
        name, "artefact", name, "onnxruntime", 24, 33, 1, **({**measured, **fields} if fields else measured)
    )


@pytest.fixture
def measured(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the method was called with; its rows can be set under ``rows``."""
    seen: dict[str, object] = {"rows": (row(artefact),)}

    def benchmark(artefacts: object, **options: object) -> BenchmarkResult:
        seen.update(options, artefacts=artefacts)
        return BenchmarkResult(
            rows=seen["rows"],
            method={"text": ["in turns"]},
            machine={"cpu": "one"},
            versions={"python": "3"},
            threads=2,
            started_at="2026-01-01T00:00:00Z",
            warnings=("the machine was busy",),
        )

    monkeypatch.setattr(method, "benchmark", benchmark)
    monkeypatch.setattr(
        pictures,
        "make_frames",
        lambda source, height, width: np.zeros((1, height, width, 3), np.uint8),
    )
    return seen


def test_the_table_has_speed_and_agreement(cli, artefact: Path, measured: dict[str, object]) -> None:
    result = cli("bench", artefact)
    assert result.exit_code == 0, result.output
    assert "brightest.onnx" in result.stdout and "99.912 %" in result.stdout
    assert "preprocess ms" in result.stdout
    assert "the machine was busy" in result.stdout
    assert (measured["sizes"], measured["batches"]) == ([(360, 480)], [1])
    assert (measured["backends"], measured["threads"], measured["typical"]) == (None, None, False)


def test_options_reach_the_method(cli, artefact: Path, measured: dict[str, object]) -> None:
    cli(
        *("bench", artefact, "--size", "24x33", "--size", "1x2", "--batch", 1, "--batch", 4),
        *("--backend", "onnxruntime", "--threads", 2, "--rounds", 3, "--seconds", 1.5),
        *("--reference", "bundled", "--typical", "--frames", "clip"),
    )
    expected = {
        **{"artefacts": [str(artefact)], "sizes": [(24, 33), (1, 2)], "batches": [1, 4]},
        **{"backends": ["onnxruntime"], "threads": 2, "rounds": 3, "seconds": 1.5},
        **{"reference": "bundled", "typical": True, "frames": Path("clip")},
    }
    assert {key: measured[key] for key in expected} == expected


def test_json_on_stdout_is_pure(cli, artefact: Path, measured: dict[str, object]) -> None:
    result = cli("bench", artefact, "--json", "-")
    assert json.loads(result.stdout)["rows"][0]["latency_ms"]["p50"] == 4.0
    assert "brightest.onnx" in result.stderr


def test_report_and_json_files(cli, artefact: Path, tmp_path: Path, measured: dict[str, object]) -> None:
    page, data = tmp_path / "report.html", tmp_path / "bench.json"
    result = cli("bench", artefact, "--json", data, "--report", page, "--size", "24x33")
    assert result.exit_code == 0, result.output
    assert json.loads(data.read_text())["threads"] == 2
    assert "data:image/png;base64," in page.read_text()
    assert f"Wrote {page}" in result.stdout


def test_a_row_without_figures_fails_the_run_and_still_shows_the_others(
    cli, artefact: Path, tmp_path: Path, measured: dict[str, object]
) -> None:
    measured["rows"] = (
        row(artefact),
        row(artefact, latency_ms=None, stages_ms=None, failure="out of memory"),
    )
    result = cli("bench", artefact, "--json", tmp_path / "bench.json")
    assert result.exit_code == 1
    assert "not measured: out of memory" in result.stdout
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("none.onnx",), "none.onnx does not exist"),
        (("{image}",), "is no artefact"),
        (("{model}", "--size", "0x0"), "expected height x width"),
        (("{model}", "--size", "9999x9999"), "accepts frames up to"),
        (("{model}", "--backend", "tpu"), "unknown backend"),
        (("{model}", "--backend", "pytorch"), "no row is left"),
        (("{model}", "--seconds", "0"), "seconds must be above 0"),
        (("{model}", "--reference", "none.pth"), "none.pth does not exist"),
        (("{model}", "--json", "{tmp}/none/b.json"), "create it first"),
        (("{model}", "--report", "{tmp}/report.pdf"), "must end in .html"),
    ],
)
def test_wrong_calls(fails, artefact: Path, tmp_path: Path, words, part: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    places = {"model": artefact, "image": tmp_path / "photo.png", "tmp": tmp_path}
    assert part in fails(2, "bench", *(word.format(**places) for word in words))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    "words", [(), ("m.onnx", "--batch", "-1"), ("m.onnx", "--rounds", "0")], ids=lambda w: " ".join(w) or "-"
)
def test_calls_that_cannot_be_parsed(cli, words: tuple[str, ...]) -> None:
    assert cli("bench", *words).exit_code == 2
