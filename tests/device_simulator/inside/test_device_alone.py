"""The device layer where the simulated driver does not get over it: each test in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.cuda.device import open_device
from fcn_deploy.runtimes.cuda.driver import DeviceLost

pytestmark = pytest.mark.planted
KINDS = {
    "cuMemFree_v2": "device",
    "cuMemFreeHost": "pinned",
    "cuStreamDestroy_v2": "streams",
    "cuEventDestroy_v2": "events",
}
"""Driver function -> what the simulator counts it under."""


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cuMemcpyHtoDAsync_v2", 719),
        ("cuStreamSynchronize", 700),
        ("cuStreamSynchronize", 719),
        ("cuMemAlloc_v2", 719),
        ("cuEventRecord", 719),
    ],
)
def test_a_lost_device_is_one_error_from_then_on_and_can_be_closed(
    binding: str, sim: Any, call: str, code: int
) -> None:
    device = open_device(0, binding)
    stream, event, memory, pinned = device.stream(), device.event(), device.memory(8), device.pinned(8)
    uses: dict[str, Callable[[], object]] = {
        "cuMemcpyHtoDAsync_v2": lambda: stream.copy_in(memory, pinned, 8),
        "cuStreamSynchronize": stream.synchronize,
        "cuMemAlloc_v2": lambda: device.memory(8),
        "cuEventRecord": lambda: event.record(stream),
    }
    sim.fault(call, 1, code)
    words = {700: "illegal memory access", 719: "launch failure"}[code]
    with pytest.raises(DeviceLost, match=f"^{call.removesuffix('_v2')} failed: .*{words}"):
        uses[call]()
    for use in uses.values():
        with pytest.raises(DeviceLost):
            use()
    device.close()
    device.close()
    with pytest.raises(InferenceError, match="the CUDA device is closed"):
        device.memory(8)


def test_every_error_that_takes_the_context_with_it_is_a_lost_device(binding: str, sim: Any) -> None:
    device = open_device(0, binding)
    stream = device.stream()
    for code in (702, 714, 715, 716, 717, 718, 721):
        sim.fault("cuStreamSynchronize", 1, code)
        with pytest.raises(DeviceLost):
            stream.synchronize()
    device.close()


def test_what_a_kernel_broke_comes_out_of_the_wait_for_it(binding: str, sim: Any) -> None:
    device = open_device(0, binding)
    stream, memory = device.stream(), device.memory(8)
    with device.current():
        assert sim.enqueue(stream.handle, lambda: sim.bytes_at(memory.address, 9)) == 0
    with pytest.raises(DeviceLost, match="cuStreamSynchronize failed"):
        stream.synchronize()
    assert "outside of every allocation" in sim.violation
    device.close()


def test_memory_freed_under_a_copy_is_found_out(binding: str, sim: Any) -> None:
    device = open_device(0, binding)
    stream, memory, pinned = device.stream(), device.memory(8), device.pinned(8)
    memory.free()
    with pytest.raises(DeviceLost):
        stream.copy_in(memory, pinned, 8)
        stream.synchronize()
    assert "uses memory that is freed" in sim.violation
    device.close()


def test_pinned_memory_freed_under_a_copy_is_found_out(binding: str, sim: Any) -> None:
    sim.delay(20_000)
    device = open_device(0, binding)
    stream, memory, pinned = device.stream(), device.memory(8), device.pinned(8)
    stream.copy_in(memory, pinned, 8)
    pinned.free()
    with pytest.raises(DeviceLost):
        stream.synchronize()
    assert "pinned memory that is freed" in sim.violation
    device.close()


@pytest.mark.parametrize("call", KINDS)
def test_freeing_never_raises_and_what_the_driver_kept_is_counted(binding: str, sim: Any, call: str) -> None:
    device = open_device(0, binding)
    held = [device.memory(8), device.pinned(8), device.stream(), device.event()]
    sim.fault(call, 1, 1)
    for thing in held:
        thing.free()
    device.close()
    assert {kind for kind in KINDS.values() if sim.count(kind)} == {KINDS[call]}
    assert sim.count("retained") == 0
