"""What is known of engines and of this machine before TensorRT is loaded."""

from __future__ import annotations

import pytest

from fcn_deploy.runtimes.cuda.gpus import Gpu
from fcn_deploy.runtimes.tensorrt import backend as module
from fcn_deploy.runtimes.tensorrt.backend import TensorRTBackend
from fcn_deploy.runtimes.tensorrt.sidecar import product_name


@pytest.mark.parametrize(
    ("package", "capability", "builds", "runs"),
    [
        ("tensorrt", None, "nothing, it builds on the GPU itself (no NVIDIA", "no: no NVIDIA driver"),
        ("tensorrt", "8.7", "for a GPU (compute capability 8.7)", "on a GPU"),
        ("tensorrt_rtx", None, "for GeForce and RTX GPUs", "no: no NVIDIA driver is installed"),
        ("tensorrt_rtx", "8.9", "on any machine", "on a GPU (compute capability 8.9)"),
        ("tensorrt_rtx", "8.7", "on any machine", "no: it does not support compute capability 8.7"),
    ],
)
def test_what_each_flavor_builds_and_runs_here(
    monkeypatch: pytest.MonkeyPatch, package: str, capability: str | None, builds: str, runs: str
) -> None:
    gpu = None if capability is None else Gpu("a GPU", capability, 1)
    monkeypatch.setattr(module, "describe_gpu", lambda: gpu)
    monkeypatch.setattr(module, "gpu_problem", lambda: None if gpu else "no NVIDIA driver is installed")
    monkeypatch.setattr(module, "installed", lambda name: name == package)
    monkeypatch.setattr(module, "version_of", {"tensorrt": "10.3.0", "tensorrt-rtx": "1.7"}.get)
    found = TensorRTBackend().diagnose()
    (flavor,) = found.facts["flavors"]
    assert (flavor["flavor"], flavor["version"]) in (("tensorrt", "10.3.0"), ("rtx", "1.7"))
    assert builds in flavor["builds"]
    assert runs in flavor["runs"]
    assert [name.strip() for name, _ in found.rows] == [product_name(flavor["flavor"]), "builds", "runs"]


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed", lambda name: False)
    monkeypatch.setattr("fcn_deploy.lazy.installed", lambda name: False)
    assert TensorRTBackend().diagnose().rows == []
    assert "fcn-deploy[tensorrt-rtx]" in str(TensorRTBackend().unavailable())
