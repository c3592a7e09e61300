"""A file exported here is opened and answered on a device's Python 3.10, by old versions too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

# The lower bounds of pyproject.toml, for the base package and the extra `cpu`.
OLDEST = [
    *("numpy==1.26.4", "onnxruntime==1.18.1", "pillow==10.3.0"),
    *("rich==13.7.0", "safetensors==0.4.3", "typer==0.16.0"),
]
PINS = {"oldest": OLDEST, "newest": ["--constraint", str(ROOT / "constraints.txt")]}

ANSWER = """
import sys
import numpy as np
import fcn_deploy

frames, answers = np.load("frames.npy"), []
for model in ("model.onnx", "model.int8.onnx"):
    with fcn_deploy.load(model) as segmenter:
        answers.append(segmenter.infer(frames).labels)
np.save("answer.npy", answers)
heavy = {"torch", "onnx", "cv2"} & set(sys.modules)
assert not heavy, heavy
"""


def run_in(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("pins", PINS)
def test_python_3_10_answers_as_this_one_does(pins: str, python310: str, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 97, 131, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    size = ("--num-classes", "5", "--width", "4", "--fc-channels", "16")
    tool = Path(sys.executable).with_name("fcn-deploy")
    random = ("--weights", "random", "--variant", "fcn8s-lite", *size)
    run_in(tmp_path, tool, "export", *random, "-o", "model.onnx")
    run_in(tmp_path, tool, "clip", "clip", "--frames", "8", "--size", "96x128")
    int8 = ("--target", "cpu", "--calib", "clip/images", "-o", "model.int8.onnx")
    run_in(tmp_path, tool, "quantize", "model.onnx", *int8)
    run_in(tmp_path, sys.executable, "-c", ANSWER)
    here = np.load(tmp_path / "answer.npy")

    device = tmp_path / "device"
    run_in(tmp_path, python310, "-m", "venv", device)
    run_in(tmp_path, device / "bin" / "pip", "install", "--quiet", *PINS[pins], f"{ROOT}[cpu]")
    run_in(tmp_path, device / "bin" / "python", "-W", "error", "-c", ANSWER)
    there = np.load(tmp_path / "answer.npy")
    # Other versions add in another order, so two classes that are equal to rounding may swap.
    assert (here == there).mean() > 0.999

    report = run_in(tmp_path, device / "bin" / "fcn-deploy", "doctor")
    assert "onnxruntime" in report
