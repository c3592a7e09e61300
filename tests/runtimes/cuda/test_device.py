"""The device layer over cuda-python and pycuda.

Its promises are tests in ``tests/device_simulator/inside``: ordinary pytest, started here once for each
CUDA binding with the simulated ``libcuda.so.1`` in place of the real one. The real packages run on it,
so what is proven is what we ask of the driver, not what a GPU makes of it. The tests marked ``gpu`` ask a
real one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import control
import numpy as np
import pytest

from fcn_deploy.errors import BackendUnavailable, InferenceError, UsageError
from fcn_deploy.runtimes.cuda.device import Device, open_device
from fcn_deploy.runtimes.cuda.driver import BINDINGS, binding_problem
from fcn_deploy.runtimes.cuda.gpus import gpu_problem
from fcn_deploy.runtimes.cuda.memory import PinnedMemory

INSIDE = control.HERE / "inside"
ROOT = control.HERE.parents[1]


def run_on_simulator(binding: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a Python that has the binding on the simulated driver; skips where there is none."""
    python = control.python_for(binding)
    if python is None:
        pytest.skip(f"{binding} is not installed (tests/device_simulator/build_pycuda.sh makes one)")
    path = os.pathsep.join(map(str, (control.HERE / "modules", control.HERE, ROOT)))
    variables = {
        "FCN_DEPLOY_SIMULATED_BINDING": binding,
        "PYTHONPATH": path,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # many processes, and none of them needs a plugin
    }
    try:
        return control.run(*arguments, python=python, **variables)
    except FileNotFoundError as exc:
        pytest.skip(str(exc))


def run_inside(binding: str, *what: str | Path) -> str:
    """Run pytest on the simulator; its output. Fails with it where a test there fails."""
    done = run_on_simulator(binding, "-m", "pytest", "-q", "-p", "no:cacheprovider", *what)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("binding", BINDINGS)
def test_on_the_simulated_driver(binding: str) -> None:
    assert " passed" in run_inside(binding, INSIDE / "test_device.py")


@pytest.mark.parametrize("binding", BINDINGS)
def test_what_the_driver_does_not_get_over_in_a_process_of_its_own(binding: str) -> None:
    module = INSIDE / "test_device_alone.py"
    names = re.findall(r"::(test_\S+)", run_inside(binding, "--collect-only", module))
    assert names
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda name: run_inside(binding, f"{module}::{name}"), names)
        for name, told in zip(names, answers, strict=True):
            assert "1 passed" in told, name


def test_the_simulated_driver_is_built_outside_of_the_tree() -> None:
    try:
        folder = control.library()
    except FileNotFoundError as exc:
        pytest.skip(str(exc))
    assert (folder / control.LIBRARY).is_file()
    assert not folder.resolve().is_relative_to(ROOT)


# --- what needs no driver ----------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``without("cuda-python")``: as if that binding were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, f"{BINDINGS[name][1]}.driver", None)

    return hide


def test_a_binding_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="unknown CUDA binding 'cupy'; choose one of cuda-python, pycuda"):
        open_device(0, "cupy")
    problem = binding_problem("cupy")
    assert problem is not None and "choose one of cuda-python, pycuda" in problem


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_binding_that_is_not_installed_says_what_to_install(
    binding: str, without: Callable[..., None]
) -> None:
    without(binding)
    with pytest.raises(
        BackendUnavailable, match=rf"^{binding} cannot be imported \(.*\); run: pip install {binding}$"
    ):
        open_device(0, binding)


def test_without_any_binding_both_are_named(without: Callable[..., None]) -> None:
    without(*BINDINGS)
    with pytest.raises(
        BackendUnavailable, match=r"^cuda-python cannot .* cuda-python; pycuda cannot .* pycuda$"
    ):
        open_device()


def test_without_a_driver_a_device_is_unavailable_and_says_why() -> None:
    if gpu_problem() is None:
        pytest.skip("this machine has a GPU")
    if problem := binding_problem("cuda-python"):
        pytest.skip(problem)
    with pytest.raises(BackendUnavailable, match=r"^cuda:0 cannot be used: cuInit "):
        open_device(0, "cuda-python")


# --- on a real GPU -----------------------------------------------------------------------------------


@pytest.fixture(params=BINDINGS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    if problem := binding_problem(request.param):
        pytest.skip(problem)
    opened = open_device(0, request.param)
    yield opened
    opened.close()


def filled(device: Device, nbytes: int) -> PinnedMemory:
    made = device.pinned(nbytes)
    made.array[:] = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8)
    return made


@pytest.mark.gpu
@pytest.mark.parametrize("nbytes", [1, 4097, 50_000_003])
def test_bytes_come_back_from_a_real_gpu(device: Device, nbytes: int) -> None:
    source, back = filled(device, nbytes), device.pinned(nbytes)
    target, stream, start, end = device.memory(nbytes), device.stream(), device.event(), device.event()
    start.record(stream)
    stream.copy_in(target, source, nbytes)
    stream.copy_out(back, target, nbytes)
    end.record(stream)
    end.synchronize()
    np.testing.assert_array_equal(back.array, source.array)
    assert end.elapsed_ms(start) > 0


@pytest.mark.gpu
def test_a_real_gpu_replays_a_captured_copy(device: Device) -> None:
    if not device.can_capture:
        pytest.skip(f"{device.binding} has no calls for CUDA graphs")
    source, back, target = filled(device, 4096), device.pinned(4096), device.memory(4096)
    stream = device.stream()

    def queue() -> None:
        stream.copy_in(target, source, 4096)
        stream.copy_out(back, target, 4096)

    graph = device.capture(stream, queue)
    for value in (3, 200):
        source.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert set(back.array.tolist()) == {value}


@pytest.mark.gpu
def test_it_lives_beside_pytorch_and_reads_its_memory(device: Device) -> None:
    torch = pytest.importorskip("torch")
    wanted = torch.arange(256, dtype=torch.uint8).repeat(16).cuda()
    back, stream = device.pinned(4096), device.stream()
    stream.wait_for(torch.cuda.current_stream().cuda_stream)
    with device.current() as driver:
        driver.copy_out(back.array, wanted.data_ptr(), stream.native)
    stream.synchronize()
    assert back.array.tolist() == list(range(256)) * 16
    device.close()
    assert wanted.cpu().tolist() == list(range(256)) * 16  # PyTorch's context is still there


@pytest.mark.gpu
def test_too_much_memory_is_refused_in_words_and_the_gpu_goes_on(device: Device) -> None:
    with pytest.raises(InferenceError, match=r"could not allocate .* of GPU memory \(.* are free\)"):
        device.memory(1 << 50)
    device.memory(1 << 20)
