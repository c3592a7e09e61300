"""What loses the device. Each test needs a process of its own: the outer tests start it so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.cuda.driver import DeviceLost
from fcn_deploy.runtimes.registry import load
from fcn_deploy.runtimes.tensorrt.slots import Slot

pytestmark = pytest.mark.planted
Make = Callable[..., np.ndarray]
FAULTS = ("cuMemcpyHtoDAsync_v2", "cuLaunchHostFunc", "cuEventSynchronize", "cuMemAlloc_v2")


@pytest.mark.parametrize("call", FAULTS)
def test_a_lost_device_is_reported_and_can_be_closed(
    engine: Path, binding: str, frames: Make, sim: Any, call: str
) -> None:
    segmenter = load(engine, cuda_binding=binding)
    sim.fault(call, 1, 719)
    for _ in range(2):
        with pytest.raises(InferenceError) as caught:
            segmenter.infer(frames(1, 24, 32))
    assert isinstance(caught.value, DeviceLost)
    assert str(caught.value).startswith(
        "cuda:0 (Simulated GPU) does not respond any more, and this process cannot use it again; start the "
        "program again ("
    )
    segmenter.details()
    segmenter.close()
    segmenter.close()
    with pytest.raises(InferenceError, match="is closed"):
        segmenter.infer(frames(1, 24, 32))


def test_a_device_lost_while_frames_are_in_flight(engine: Path, binding: str, frames: Make, sim: Any) -> None:
    sim.delay(3000)
    segmenter = load(engine, cuda_binding=binding)
    segmenter.submit(frames(1, 24, 32))
    segmenter.submit(frames(1, 24, 32))
    sim.fail("planted: the GPU fell off the bus")
    for _ in range(2):
        with pytest.raises(DeviceLost):
            segmenter.result()
    segmenter.close()


def test_use_after_free_is_seen(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = frames(1, 24, 32)
    segmenter = load(engine, cuda_binding=binding)
    np.testing.assert_array_equal(segmenter.infer(images).labels, expected(images).labels)
    assert sim.violation == ""
    wait_for_results = Slot.wait_for_results

    def wait_and_free(self: Slot, size: Any) -> Any:
        found = wait_for_results(self, size)
        self.device_out["labels"].free()  # planted: the slot will be used again
        return found

    monkeypatch.setattr(Slot, "wait_for_results", wait_and_free)
    segmenter.infer(images)
    with pytest.raises(DeviceLost):
        segmenter.infer(images)
    assert "uses memory that is freed" in sim.violation
    segmenter.close()
