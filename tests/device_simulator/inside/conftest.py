"""Tests that run on the simulated driver, in a process of their own.

``tests/runtimes/tensorrt/test_runtime.py`` starts pytest on this folder once for each CUDA binding, with the
simulated libcuda.so.1 and TensorRT in place. Started any other way they are not collected.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BINDING = os.environ.get("FCN_DEPLOY_SIMULATED_BINDING")
collect_ignore_glob = [] if BINDING else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "planted: breaks a rule of the simulator on purpose")


@pytest.fixture(scope="session")
def binding() -> str:
    assert BINDING
    return BINDING


@pytest.fixture(scope="session")
def onnx() -> Path:
    """The tiny deploy graph of the outer tests, with all three outputs."""
    return Path(os.environ["FCN_DEPLOY_SIMULATED_ONNX"])


@pytest.fixture
def engine(tmp_path: Path, onnx: Path) -> Path:
    from engines import make_engine

    return make_engine(tmp_path / "tiny.engine", onnx)


@pytest.fixture
def frames() -> Callable[..., np.ndarray]:
    """``frames(1, 24, 32, seed=3)``: random uint8 frames."""

    def make(*size: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def expected(onnx: Path) -> Callable[[np.ndarray], Any]:
    """What ONNX Runtime answers on a CPU: a Segmentation."""
    from fcn_deploy.runtimes.registry import load

    reference = load(onnx, "onnxruntime", device="cpu", threads=1)
    return reference.infer


@pytest.fixture(scope="session")
def count() -> int:
    """How many frames of varying size the long test labels."""
    return int(os.environ.get("FCN_DEPLOY_SIMULATED_FRAMES", "300"))


@pytest.fixture(autouse=True)
def sim(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The simulator: at the end of each test nothing may be left in it, and no rule may have been broken."""
    import tensorrt
    from control import Simulator

    simulator = Simulator()
    tensorrt.faults.clear()
    tensorrt.launches.clear()
    before = simulator.leaks()  # what a test that failed before this one left behind
    yield simulator
    simulator.fault("", 0)
    simulator.delay(200)
    simulator.memory(1 << 32)
    tensorrt.faults.clear()
    gc.collect()
    if "planted" not in request.keywords:
        assert simulator.violation == ""
        assert simulator.leaks() == before
