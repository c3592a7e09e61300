"""NVIDIA's own tool opens, runs and lints what was exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.export.precision import to_fp16


def polygraphy(*words: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("polygraphy")
    return subprocess.run([tool, *words], capture_output=True, text=True, timeout=300)


@pytest.fixture(params=["fp32", "fp16"])
def graph(request, exported, tmp_path) -> str:
    path, _, spec = exported("fcn8s")
    if request.param == "fp16":
        model, _ = read_model(path)
        path = tmp_path / "half.onnx"
        write_model(to_fp16(model), spec.replace(precision="fp16"), path)
    return str(path)


def test_it_runs(graph):
    done = polygraphy(
        *("run", graph, "--onnxrt", "--input-shapes", "image:[1,97,131,3]", "--val-range", "[0,255]")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "labels [dtype=uint8, shape=(1, 97, 131)]" in done.stdout


def test_it_lints(graph):
    done = polygraphy("check", "lint", graph)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_graph_does_not_pass(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    assert polygraphy("check", "lint", str(tmp_path / "no.onnx")).returncode != 0
