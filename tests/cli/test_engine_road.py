"""run, eval, bench and inspect on an engine, with the CUDA driver and TensorRT simulated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import control
import numpy as np
import pytest
from engines import make_engine
from PIL import Image

from fcn_deploy.runtimes.registry import load

COMMAND = "import sys; sys.argv[0] = 'fcn-deploy'; from fcn_deploy.cli import main; main()"
PROFILES = (((1, 1, 1), (1, 24, 33), (2, 48, 64)),)
Road = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def road() -> Road:
    """``road("run", path)``: the command line in a process whose GPU is simulated."""
    try:
        variables = control.environment()
    except FileNotFoundError as exc:
        pytest.skip(str(exc))
    if control.python_for("cuda-python") is None:
        pytest.skip("cuda-python is not installed")
    variables["PYTHONPATH"] = f"{control.HERE / 'modules'}:{variables['PYTHONPATH']}"

    def call(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", COMMAND, *map(str, words)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def engine(tmp_path: Path, sure_artefact: Path) -> Path:
    return make_engine(tmp_path / "sure.engine", sure_artefact, PROFILES)


def test_run_writes_the_labels_that_onnx_runtime_gives(
    road: Road, engine: Path, sure_artefact: Path, images: Path, tmp_path: Path
) -> None:
    masks, hot = tmp_path / "masks", tmp_path / "hot"
    done = road("run", engine, images, "--masks", masks, "--confidence", hot, "--json")
    told = json.loads(done.stdout)
    assert (told["backend"], told["device"], told["frames"]) == ("tensorrt", "cuda:0", 3)
    with load(sure_artefact, "onnxruntime", device="cpu") as reference:
        for mask in masks.rglob("*.png"):
            image = images / mask.relative_to(masks)
            frame = np.asarray(Image.open(image).convert("RGB"))[..., ::-1]
            np.testing.assert_array_equal(np.asarray(Image.open(mask)), reference.infer(frame).labels[0])
    assert len(list(masks.rglob("*.png"))) == len(list(hot.rglob("*.png"))) == 3


def test_eval_scores_an_engine_as_its_onnx_file(
    road: Road, cli: Callable[..., object], engine: Path, sure_artefact: Path, labelled: Path
) -> None:
    (ours,) = json.loads(road("eval", engine, "--data", labelled, "--json", "-").stdout)["results"]
    told = cli("eval", sure_artefact, "--backend", "onnxruntime", "--data", labelled, "--json", "-")
    (theirs,) = json.loads(told.stdout)["results"]
    assert (ours["backend"], theirs["backend"]) == ("tensorrt", "onnxruntime")
    assert ours["mean_iu"] == theirs["mean_iu"] == 1.0


def test_bench_splits_copies_from_compute_and_states_graphs_and_memory(
    road: Road, engine: Path, tmp_path: Path
) -> None:
    found, page = tmp_path / "bench.json", tmp_path / "bench.html"
    options = ["--size", "24x33", "--rounds", "2", "--seconds", "0.2"]
    done = road("bench", engine, *options, "--json", found, "--report", page)
    (row,) = json.loads(found.read_text())["rows"]
    assert row["failure"] is None and row["device"] == "cuda:0"
    stages = row["device_ms"]
    assert all(stages[stage]["p50"] > 0 for stage in ("copy_in", "compute", "copy_out"))
    # The events lie inside of the call that was timed around them.
    assert sum(stages[stage]["p50"] for stage in stages) < 1.5 * row["stages_ms"]["infer"]["p50"]
    assert row["details"]["cuda_graph"] == "yes" and row["details"]["gpu_memory_mb"] > 0
    assert "copy in ms" in done.stdout and "copy in ms" in page.read_text()


def test_inspect_reads_the_sidecar_and_needs_no_gpu(
    cli: Callable[..., object], engine: Path, sure_artefact: Path
) -> None:
    done = cli("inspect", engine)
    assert done.exit_code == 0, done.output
    for words in (
        "built by   TensorRT 10.3.0",
        "compute capability 8.6",
        "1x1x1:1x24x33:2x48x64 (batch x height x width)",
        "1 layers fp32",
        "not checked: simulated",
        "onnx sure.onnx  sha256",
    ):
        assert words in done.stdout, (words, done.stdout)
    told = json.loads(cli("inspect", engine, "--json").stdout)
    assert told["contents"]["onnx"]["name"] == sure_artefact.name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"compute_capability": "9.0"}, "was built for compute capability 9.0, and this GPU has 8.6"),
        ({"version": "8.6.1"}, "was built by TensorRT 8.6.1, and 10.3.0 is installed here"),
        ({"engine_sha256": "0" * 64}, "is not the engine that"),
    ],
)
def test_an_engine_that_does_not_belong_here_is_one_sentence(
    road: Road, tmp_path: Path, sure_artefact: Path, image: Path, fields: dict[str, str], told: str
) -> None:
    engine = make_engine(tmp_path / "x.engine", sure_artefact, PROFILES, **fields)
    done = road("run", engine, image, code=1)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ") and told in line


def test_a_frame_outside_the_profiles_names_them(
    road: Road, tmp_path: Path, sure_artefact: Path, image: Path
) -> None:
    engine = make_engine(tmp_path / "x.engine", sure_artefact, (((1, 64, 64), (1, 64, 64), (1, 64, 64)),))
    done = road("run", engine, image, code=2)
    assert "fits no optimization profile" in done.stderr and "1x64x64:1x64x64:1x64x64" in done.stderr


def test_without_a_driver_it_says_what_is_missing(
    fails: Callable[..., str], engine: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.runtimes.cuda import gpus as nvidia

    monkeypatch.setattr(nvidia, "_library", lambda: "libnothing.so.1")
    told = fails(1, "run", engine, image)
    assert "the tensorrt backend, which reads sure.engine, cannot run here: no NVIDIA driver" in told
    assert "runs without a GPU" in told


def test_the_gpu_check_reports_on_an_engine(
    road: Road, engine: Path, sure_artefact: Path, tmp_path: Path
) -> None:
    script = control.HERE.parents[1] / "benchmarks" / "gpu_check.py"
    variables = control.environment()
    variables["PYTHONPATH"] = f"{control.HERE / 'modules'}:{variables['PYTHONPATH']}"
    words = ["--engine", engine, "--onnx", sure_artefact, "--frames", 40, "--calls", 20, "--out", tmp_path]
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert all(step["ok"] for step in steps) and len(steps) >= 4
    assert set(steps[0]["agreement"].values()) == {1.0}
    assert "Simulated GPU" in (tmp_path / "report.md").read_text()
