"""What the driver says of GPUs, with a driver that the tests compile themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fcn_deploy

ROOT = Path(fcn_deploy.__file__).parents[1]
DRIVER = (
    "int cuInit(int flags) {{ return {init}; }} int cuDeviceGetCount(int *n) {{ *n = {count}; return 0; }}"
)

Python = Callable[..., str]


@pytest.fixture
def with_driver(tmp_path: Path) -> Python:
    """Run Python code where the NVIDIA driver is a stand-in; gives what it wrote to stdout and stderr."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("needs a C compiler on Linux")

    def run(code: str, *arguments: str, init: int = 0, count: int = 1) -> str:
        source = tmp_path / "driver.c"
        source.write_text(DRIVER.format(init=init, count=count))
        library = tmp_path / "libcuda.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


ASK = (
    "import sys; from fcn_deploy.runtimes.cuda.gpus import gpu_problem; print(gpu_problem(int(sys.argv[1])))"
)


@pytest.mark.parametrize(
    ("driver", "index", "told"),
    [
        ({"count": 2}, "1", "None"),
        ({"count": 2}, "2", "there is no cuda:2; the last GPU that the driver finds is cuda:1"),
        ({"count": 0}, "0", "the NVIDIA driver finds no GPU"),
        ({"init": 100}, "0", "the NVIDIA driver finds no GPU (CUDA error 100)"),
    ],
)
def test_what_the_driver_finds(with_driver: Python, driver: dict[str, int], index: str, told: str) -> None:
    assert with_driver(ASK, index, **driver).strip() == told


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcn_deploy.runtimes.cuda import gpus

    monkeypatch.setattr(gpus.sys, "platform", "win32")  # its nvcuda.dll is not here
    assert gpus.gpu_problem() == "no NVIDIA driver is installed (nvcuda.dll is not found)"


DESCRIBED = """
int cuDeviceGet(int *device, int index) { *device = index + 40; return 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "GPU %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)8 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 7; return 0; }
static int depth, retained;
int cuDevicePrimaryCtxRetain(void **context, int device) { retained++; *context = &depth; return RETAINED; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return 0; }
int cuCtxPushCurrent_v2(void *context) { depth++; return context != &depth; }
int cuCtxPopCurrent_v2(void **context) { depth--; *context = &depth; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = (size_t)5 << 30;
    return depth != 1 || retained != 1;
}
int balance(void) { return depth + retained; }
"""
DESCRIBE = """
import ctypes
from fcn_deploy.runtimes.cuda.gpus import describe_gpu, free_memory
print(describe_gpu(1), free_memory(1), ctypes.CDLL("libcuda.so.1").balance(), describe_gpu(2))
"""


@pytest.mark.parametrize(("retain", "free"), [(0, 5 << 30), (2, None)])
def test_a_gpu_is_described_and_no_context_is_left(
    with_driver: Python, monkeypatch: pytest.MonkeyPatch, retain: int, free: int | None
) -> None:
    described = DESCRIBED.replace("RETAINED", str(retain)).replace("{", "{{").replace("}", "}}")
    source = "#include <stdio.h>\n" + DRIVER + described
    monkeypatch.setitem(globals(), "DRIVER", source)
    told = with_driver(DESCRIBE, count=2).strip()
    gpu = "Gpu(name='GPU 41', compute_capability='8.7', memory=8589934592)"
    assert told == f"{gpu} {free} {0 if retain == 0 else 1} None"


# The driver promises a GPU and ONNX Runtime cannot have it: what a machine with the wrong CUDA looks like.
LOAD = """
import sys
import fcn_deploy
try:
    segmenter = fcn_deploy.load(sys.argv[1], **eval(sys.argv[2]))
    print(segmenter.device, segmenter.details()["provider"])
except fcn_deploy.FcnDeployError as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("wish", ["{'device': 'cuda'}", "{'provider': 'tensorrt'}"])
def test_a_gpu_that_onnx_runtime_cannot_use_is_an_error(with_driver: Python, tiny: Path, wish: str) -> None:
    told = with_driver(LOAD, str(tiny), wish)
    assert told.startswith("BackendUnavailable ONNX Runtime c"), told
    assert "choose device cpu, or allow the fall-back" in told
    assert told.count("\n") == 1, "ONNX Runtime's own words reached the terminal"


@pytest.mark.parametrize("wish", ["'device': 'cuda'", "'provider': 'tensorrt'", ""])
def test_with_the_fallback_allowed_it_runs_on_the_cpu_and_says_so(
    with_driver: Python, tiny: Path, wish: str
) -> None:
    assert with_driver(LOAD, str(tiny), f"{{'allow_fallback': True, {wish}}}") == "cpu cpu\n"
