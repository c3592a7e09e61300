"""The TensorRT runtime. Most of it is tested on a simulated driver, in processes that are started here.

``tests/device_simulator/inside`` holds those tests: ordinary pytest, run once for each CUDA binding with
the simulated ``libcuda.so.1`` and a simulated TensorRT in place of the real ones.
"""

from __future__ import annotations

import math
import subprocess
import threading
import time
from pathlib import Path

import control
import numpy as np
import pytest
from engines import make_engine
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.errors import BackendUnavailable, InferenceError, SourceError, UsageError
from fcn_deploy.runtimes.cuda import gpus
from fcn_deploy.runtimes.registry import backend_for, load
from fcn_deploy.runtimes.tensorrt.pool import ResourcePool
from fcn_deploy.runtimes.tensorrt.profiles import Profile, choose, max_batch, most_pixels
from fcn_deploy.runtimes.tensorrt.slots import outputs_of

INSIDE = control.HERE / "inside"
BINDINGS = ("cuda-python", "pycuda")
FAULTS = ("cuMemcpyHtoDAsync_v2", "cuLaunchHostFunc", "cuEventSynchronize", "cuMemAlloc_v2")
LOST = (
    *(f"test_a_lost_device_is_reported_and_can_be_closed[{call}]" for call in FAULTS),
    *("test_a_device_lost_while_frames_are_in_flight", "test_use_after_free_is_seen"),
)


def run_inside(binding: str, onnx: Path, *what: str, frames: int = 300) -> str:
    """Run pytest on the simulator; its output. Fails with it where a test there fails."""
    python = control.python_for(binding)
    if python is None:
        pytest.skip(f"{binding} is not installed (tests/device_simulator/build_pycuda.sh makes one)")
    try:
        variables = control.environment(
            FCN_DEPLOY_SIMULATED_BINDING=binding,
            FCN_DEPLOY_SIMULATED_ONNX=str(onnx),
            FCN_DEPLOY_SIMULATED_FRAMES=str(frames),
        )
    except FileNotFoundError as exc:
        pytest.skip(str(exc))
    variables["PYTHONPATH"] = f"{control.HERE / 'modules'}:{variables['PYTHONPATH']}"
    command = [python, "-X", "faulthandler", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *what]
    done = subprocess.run(
        command, env=variables, cwd=control.HERE.parents[1], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("module", ["test_runtime.py", "test_planted.py"])
def test_on_the_simulated_driver(binding: str, module: str, tiny_outputs: Path) -> None:
    assert " passed" in run_inside(binding, tiny_outputs, str(INSIDE / module))


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("test", LOST)
def test_a_lost_device_in_a_process_of_its_own(binding: str, test: str, tiny_outputs: Path) -> None:
    assert "1 passed" in run_inside(binding, tiny_outputs, f"{INSIDE / 'test_lost.py'}::{test}")


@pytest.mark.slow
@pytest.mark.parametrize("binding", BINDINGS)
def test_ten_thousand_frames_of_varying_size(binding: str, tiny_outputs: Path) -> None:
    test = f"{INSIDE / 'test_runtime.py'}::test_frames_of_varying_size_allocate_nothing"
    told = run_inside(binding, tiny_outputs, test, frames=10_000)
    assert f"{binding}: 10000 frames, 0 allocations in the steady state, 0 bytes at the end" in told


# --- what needs no driver ---------------------------------------


def test_engines_go_to_it() -> None:
    assert backend_for(Path("street.engine")).name == "tensorrt"


def test_without_a_gpu_it_says_why(
    tmp_path: Path, tiny_outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_library", lambda: "libnothing.so.1")
    path = make_engine(tmp_path / "x.engine", tiny_outputs)
    with pytest.raises(BackendUnavailable, match="cannot run here: "):
        load(path)


SIZE = st.tuples(st.integers(1, 8), st.integers(1, 2000), st.integers(1, 2000))


@st.composite
def profiles(draw: st.DrawFn) -> list[Profile]:
    found = []
    for index in range(draw(st.integers(1, 4))):
        bounds = [sorted(axis) for axis in zip(draw(SIZE), draw(SIZE), draw(SIZE), strict=True)]
        found.append(Profile(index, *zip(*bounds, strict=True)))
    return found


@given(profiles(), SIZE)
def test_the_chosen_profile_fits_and_no_other_has_a_nearer_opt(
    found: list[Profile], size: tuple[int, int, int]
) -> None:
    fitting = [profile for profile in found if profile.fits(size)]
    if not fitting:
        with pytest.raises(SourceError, match="fits no optimization profile") as caught:
            choose(found, size)
        assert all(str(profile) in str(caught.value) for profile in found)
        return
    chosen = choose(found, size)
    assert chosen in fitting
    assert chosen.distance(size) == min(profile.distance(size) for profile in fitting)


@given(profiles(), SIZE)
def test_a_size_that_is_taken_singly_is_taken_in_every_batch_up_to_the_maximum(
    found: list[Profile], size: tuple[int, int, int]
) -> None:
    _, height, width = size
    if any(profile.fits((1, height, width)) for profile in found):
        for batch in range(1, max_batch(found) + 1):
            choose(found, (batch, height, width))


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([((1, 1, 1), (8, 9, 9))], 8),
        ([((1, 1, 1), (8, 9, 9)), ((1, 5, 5), (2, 20, 20))], 2),  # 20x20 goes through the second only
        ([((1, 5, 5), (1, 9, 9)), ((1, 1, 1), (4, 20, 20))], 4),  # the second takes what the first does
        ([((1, 1, 1), (1, 9, 9)), ((2, 1, 1), (4, 9, 9))], 4),  # they follow on each other
        ([((1, 1, 1), (1, 9, 9)), ((3, 1, 1), (4, 9, 9))], 1),  # two frames fit neither
        ([((2, 1, 1), (6, 9, 9)), ((4, 10, 10), (5, 20, 20))], 5),  # no single frames at all
    ],
)
def test_the_largest_batch_that_every_size_can_have(
    bounds: list[tuple[tuple[int, int, int], tuple[int, int, int]]], expected: int
) -> None:
    assert max_batch([Profile(i, low, low, high) for i, (low, high) in enumerate(bounds)]) == expected


@given(profiles(), SIZE)
def test_buffers_hold_every_frame_that_fits(found: list[Profile], size: tuple[int, int, int]) -> None:
    if any(profile.fits(size) for profile in found):
        for output in outputs_of(("labels", "confidence", "logits"), 11):
            needed = math.prod(output.shape(size)) * output.dtype.itemsize
            assert needed == output.bytes_for(math.prod(size)) <= output.bytes_for(most_pixels(found))


def test_a_pool_creates_no_more_than_its_limit_and_hands_out_the_last_one_first() -> None:
    pool = ResourcePool(lambda number: f"slot {number}", 2, closed="it is closed")
    first, second = pool.acquire(), pool.acquire()
    assert (first, second) == ("slot 0", "slot 1")
    got: list[str] = []
    waiting = threading.Thread(target=lambda: got.append(pool.acquire()))
    waiting.start()
    time.sleep(0.02)
    assert got == []
    pool.release(first)
    waiting.join(5)
    assert got == [first]
    pool.release(second)
    assert pool.acquire() == second


def test_closing_a_pool_wakes_who_waits_and_waits_for_what_is_in_use() -> None:
    pool = ResourcePool(lambda number: number, 1, closed="it is closed")
    out = pool.acquire()
    told: list[str] = []

    def ask() -> None:
        try:
            pool.acquire()
        except InferenceError as exc:
            told.append(str(exc))

    waiting = threading.Thread(target=ask)
    waiting.start()
    closed: list[list[int]] = []
    closing = threading.Thread(target=lambda: closed.append(pool.close()))
    closing.start()
    waiting.join(5)
    assert told == ["it is closed"] and closed == []
    pool.release(out)
    closing.join(5)
    assert closed == [[0]]


def test_frames_on_a_device_need_a_backend_that_runs_on_one(tiny: Path) -> None:
    with load(tiny, device="cpu") as segmenter, pytest.raises(UsageError, match="from host memory only"):
        segmenter.infer_device(np.zeros((4, 5, 3), np.uint8))
