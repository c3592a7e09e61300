"""What needs a real NVIDIA GPU with TensorRT. None of it has run yet; `make gpu-check` writes a report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fcn_deploy
from fcn_deploy.data.street import SyntheticStreet
from fcn_deploy.lazy import installed
from fcn_deploy.metrics import label_agreement
from fcn_deploy.runtimes.cuda.gpus import free_memory
from fcn_deploy.runtimes.registry import backends

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
PROFILE = "1x1x1:1x180x240:2x360x480"
SIZES = ((1, 1, 1), (1, 97, 131), (1, 180, 240), (2, 360, 480))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := backends()["tensorrt"].unavailable():
        pytest.skip(reason)
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def onnx(folder: Path) -> Path:
    path = folder / "model.onnx"
    export = "import sys; from fcn_deploy.cli import main; main()"
    words = ["export", "--weights", "bundled", "-o", str(path)]
    subprocess.run([sys.executable, "-c", export, *words], check=True)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path, onnx: Path) -> Path:
    from fcn_deploy.building import build_engine

    path = folder / "model.engine"
    build_engine(onnx, path, profiles=[PROFILE])
    return path


def frames(batch: int, height: int, width: int) -> np.ndarray:
    street = SyntheticStreet(frames=max(batch, 2), height=height, width=width)
    return np.stack([street[i].image for i in range(batch)])


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_an_engine_answers_as_onnx_runtime_does(engine: Path, onnx: Path, binding: str) -> None:
    if not installed({"cuda-python": "cuda.bindings", "pycuda": "pycuda"}[binding]):
        pytest.skip(f"{binding} is not installed")
    with (
        fcn_deploy.load(engine, cuda_binding=binding) as ours,
        fcn_deploy.load(onnx, "onnxruntime", device="cpu") as theirs,
    ):
        for size in SIZES:
            for _ in range(3):  # plainly, then captured, then replayed
                images = frames(*size)
                assert label_agreement(theirs.infer(images).labels, ours.infer(images).labels) > 0.999


def test_it_lives_beside_torch_and_reads_its_tensors(engine: Path) -> None:
    torch = pytest.importorskip("torch")
    images = frames(1, 180, 240)
    with fcn_deploy.load(engine) as segmenter:
        expected = segmenter.infer(images).labels
        for _ in range(20):
            on_gpu = torch.from_numpy(images).cuda(non_blocking=True)
            answer = segmenter.infer_device(on_gpu)
            labels = torch.as_tensor(answer.labels, device="cuda")
            np.testing.assert_array_equal(labels.cpu().numpy(), expected)


def test_frames_of_varying_size_leave_no_memory_behind(engine: Path) -> None:
    rng = np.random.default_rng(0)
    with fcn_deploy.load(engine) as segmenter:
        for number in range(1000):
            size = (1, int(rng.integers(1, 361)), int(rng.integers(1, 481)))
            segmenter.infer(np.zeros((*size, 3), np.uint8))
            if number == 99:
                middle = free_memory()
        end = free_memory()
    assert middle is not None and end is not None
    assert middle - end < 32 << 20
