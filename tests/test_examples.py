"""The examples run as they are."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fcn_deploy.camera.sinks.video_file import VideoFile
from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec

pytest.importorskip("cv2")
EMBED = Path(__file__).resolve().parents[1] / "examples" / "camera_embed.py"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deploy graph without weights: a pixel's label is its brightest channel."""
    frame = ["batch", "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ArgMax", ["float"], ["winner"], axis=3, keepdims=0),
            helper.make_node("Cast", ["winner"], ["labels"], to=TensorProto.UINT8),
        ],
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*frame, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, frame)],
    )
    spec = ModelSpec(
        classes=("blue", "green", "red"),
        palette=((0, 0, 255), (0, 255, 0), (255, 0, 0)),
        architecture=Architecture("fcn8s-lite"),
        outputs=("labels",),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    path = tmp_path_factory.mktemp("artefact") / "brightest.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of red, 20 a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoFile(path, 20.0) as video:
        for _ in range(8):
            video.write(np.tile(np.array([220, 10, 10], np.uint8), (32, 48, 1)))
    return path


def test_the_pipeline_to_start_from_labels_a_video(artefact: Path, clip: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EMBED), str(artefact), str(clip)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *frames, last = done.stdout.splitlines()
    assert [line.split(",")[0] for line in frames] == [f"frame {index:06d}" for index in range(8)]
    assert all(line.endswith(" ms old: red ahead") for line in frames)
    assert last.startswith("8 delivered") and "0 dropped" in last


def test_ctrl_c_stops_the_pipeline_to_start_from(artefact: Path) -> None:
    """A camera that is looked for, which nothing but Ctrl-C ends."""
    process = subprocess.Popen(
        [sys.executable, str(EMBED), str(artefact), "rtsp://viewer:secret@127.0.0.1:9/none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None and process.stdout is not None
        assert "trying again until it is connected" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.stdout.readline().startswith("0 delivered")
        assert process.wait(timeout=20) == 0 and time.monotonic() - began < 10
