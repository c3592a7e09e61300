"""PyTorch answers as the reference does, on the device asked for or not at all."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fcn_deploy.errors import BackendUnavailable, ModelError, UsageError  # noqa: E402
from fcn_deploy.model.checkpoints.native import load_safetensors, save_safetensors  # noqa: E402
from fcn_deploy.model.checkpoints.random import random_model  # noqa: E402
from fcn_deploy.model.deploy import DeployModel, reference_labels, reference_logits  # noqa: E402
from fcn_deploy.runtimes.backend import FallbackOptions  # noqa: E402
from fcn_deploy.runtimes.pytorch import PyTorch, run_in_half, usable_device  # noqa: E402
from fcn_deploy.runtimes.registry import load  # noqa: E402
from fcn_deploy.spec import Architecture, ModelSpec  # noqa: E402

CPU = FallbackOptions(device="cpu")


@pytest.fixture(scope="module")
def runtime(lite: Path):
    with PyTorch.open(lite, CPU) as opened:
        yield opened


@settings(max_examples=12)
@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 70)))
def test_it_answers_as_the_plain_module_does(runtime, lite: Path, build, shape: tuple[int, int, int]) -> None:
    model, spec = load_safetensors(lite)
    frames = build.frames(*shape)
    answer = runtime.infer(frames)
    assert answer.labels.dtype == np.uint8
    assert (answer.labels == reference_labels(model, spec, frames)).mean() > 0.999


def test_a_frame_that_is_not_contiguous_is_labelled_as_its_copy(runtime, build) -> None:
    frames = build.frames(1, 40, 50)[:, ::-1, ::2]
    np.testing.assert_array_equal(runtime.infer(frames).labels, runtime.infer(frames.copy()).labels)


def test_a_frame_that_may_only_be_read_raises_no_warning(runtime, build) -> None:
    frames = build.frames(1, 8, 9)
    expected = runtime.infer(frames).labels
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(runtime.infer(frames).labels, expected)


def test_inferring_leaves_the_callers_frame_alone(runtime, build) -> None:
    frames = build.frames(1, 8, 9)
    before = frames.copy()
    runtime.infer(frames)
    np.testing.assert_array_equal(frames, before)


@pytest.fixture
def artefact(tmp_path: Path):
    def make(dtype: str = "fp32", **changes: Any) -> Path:
        model, _ = random_model(4, "fcn8s-lite", width=4, fc_channels=8, seed=1)
        spec = ModelSpec(
            classes=tuple("abcd"), architecture=Architecture("fcn8s-lite", {"width": 4, "fc_channels": 8})
        )
        path = tmp_path / f"{dtype}.safetensors"
        save_safetensors(model, spec.replace(precision=dtype, **changes), path, dtype=dtype)
        return path

    return make


def test_confidence_and_logits_come_where_they_were_asked_for(artefact, build) -> None:
    path = artefact(outputs=("labels", "logits", "confidence"))
    frames = build.frames(2, 33, 31)
    model, spec = load_safetensors(path)
    with load(path, device="cpu") as segmenter:
        answer = segmenter.infer(frames)
    expected = reference_logits(model, spec, frames)
    assert answer.logits.dtype == answer.confidence.dtype == np.float32
    np.testing.assert_allclose(answer.logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert answer.confidence.shape == (2, 33, 31)
    assert answer.confidence.min() >= 0.25 - 1e-6 and answer.confidence.max() <= 1 + 1e-6


def test_half_weights_are_widened_on_a_cpu(artefact, build) -> None:
    path = artefact("fp16")
    model, spec = load_safetensors(path)
    frames = build.frames(1, 40, 40)
    with load(path, device="cpu") as segmenter:
        assert segmenter.precision == "fp16"
        assert segmenter.details()["computes_in"] == "fp32"
        assert (segmenter.infer(frames).labels == reference_labels(model, spec, frames)).mean() > 0.999


def test_half_precision_as_it_runs_on_a_gpu(artefact, build) -> None:
    """The same module, on the device that every machine has."""
    path = artefact("fp16", outputs=("labels", "confidence", "logits"))
    model, spec = load_safetensors(path)
    module = DeployModel(model, spec).eval()
    run_in_half(module)
    runtime = PyTorch(module, module.outputs, spec, "cpu")
    assert runtime.details()["computes_in"] == "fp16"
    frames = build.frames(1, 40, 48)
    answer = runtime.infer(frames)
    expected = reference_logits(model, spec, frames)
    assert answer.logits.dtype == answer.confidence.dtype == np.float32
    error = np.abs(answer.logits - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < 1e-2, "neither float32 nor far away"
    assert (answer.labels == expected.argmax(1)).mean() > 0.97


def test_threads_are_left_alone_unless_given(lite: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load(lite, device="cpu").close()
        assert torch.get_num_threads() == 2
        with load(lite, device="cpu", threads=1) as segmenter:
            assert torch.get_num_threads() == segmenter.details()["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_details_name_the_version(runtime) -> None:
    assert runtime.details()["torch"] == torch.__version__
    assert runtime.device == "cpu"


def fake_torch(*, built: bool = True, gpus: int = 0, warning: str = "") -> Any:
    def is_available() -> bool:
        if warning:
            warnings.warn(warning, UserWarning, stacklevel=1)
        return gpus > 0

    return SimpleNamespace(
        __version__="9.9",
        version=SimpleNamespace(cuda="13.0" if built else None),
        cuda=SimpleNamespace(is_available=is_available, device_count=lambda: gpus),
    )


@pytest.mark.parametrize(
    ("machine", "wish", "expected"),
    [
        ({"gpus": 0}, None, "cpu"),
        ({"built": False}, None, "cpu"),
        ({"gpus": 2}, None, "cuda:0"),
        ({"gpus": 2}, "cuda", "cuda:0"),
        ({"gpus": 2}, "cuda:1", "cuda:1"),
        ({"gpus": 2}, "cpu", "cpu"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best_here(machine, wish: str | None, expected: str) -> None:
    assert usable_device(fake_torch(**machine), FallbackOptions(device=wish)) == expected


@pytest.mark.parametrize(
    ("machine", "wish", "told"),
    [
        ({"built": False}, "cuda", "PyTorch cannot use cuda here: torch 9.9 is built without CUDA"),
        ({}, "cuda", "it finds no NVIDIA driver or no GPU; choose device cpu, or allow the fall-back"),
        ({"warning": "the driver is too old\nlong story"}, "cuda", "here: the driver is too old; choose"),
        ({"gpus": 2}, "cuda:2", "there is no cuda:2; the last GPU is cuda:1"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_an_error_unless_the_fallback_is_allowed(
    machine, wish: str, told: str
) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        usable_device(fake_torch(**machine), FallbackOptions(device=wish))
    assert told in str(caught.value)
    assert usable_device(fake_torch(**machine), FallbackOptions(device=wish, allow_fallback=True)) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu(lite: Path) -> None:
    with pytest.raises(BackendUnavailable, match="PyTorch cannot use cuda here"):
        load(lite, device="cuda")
    with load(lite, device="cuda", allow_fallback=True) as segmenter:
        assert segmenter.device == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_gpu_answers_as_the_cpu_does(artefact, build, dtype: str) -> None:
    frames = build.frames(2, 90, 120)
    path = artefact(dtype)
    with load(path, device="cpu") as cpu, load(path, device="cuda") as gpu:
        assert gpu.details()["computes_in"] == dtype
        assert (cpu.infer(frames).labels == gpu.infer(frames).labels).mean() > 0.97


def test_a_truncated_artefact(lite: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(lite.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"cut\.safetensors is not a complete safetensors file"):
        load(path)


def test_weights_without_a_description(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file({"conv1_1.weight": torch.zeros(2, 3, 3, 3)}, path)
    with pytest.raises(ModelError, match=r"plain\.safetensors holds weights but no model description"):
        load(path)


def test_without_torch_it_says_what_brings_it(lite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'fcn-deploy\[export\]'"):
        load(lite)


def test_other_files_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({}, path)
    with pytest.raises(UsageError, match="export it first"):
        load(path, "pytorch")
