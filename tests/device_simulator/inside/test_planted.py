"""Bugs planted into our own code: the simulator finds each, so tests that pass on it mean something.

Every test first runs its check on the code as it is, then on a copy of one method with one mistake in
it. Where the mistake makes the device lose its context, ``test_lost.py`` has the test, because a process
does not get over that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt
from device_frames import OnDevice

from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.cuda.streams import Stream
from fcn_deploy.runtimes.registry import load
from fcn_deploy.runtimes.tensorrt.runtime import TensorRT
from fcn_deploy.runtimes.tensorrt.slots import Slot

pytestmark = pytest.mark.planted
Make = Callable[..., np.ndarray]


@pytest.fixture
def wrong(engine: Path, binding: str, frames: Make, expected: Any, sim: Any) -> Callable[[], int]:
    """How many of a clip's frames get wrong labels, two of them in flight at a time."""

    def count() -> int:
        sim.delay(2000)
        clip = [frames(1, 24, 32, seed=seed) for seed in range(10)]
        with load(engine, cuda_binding=binding) as segmenter:
            answers = list(segmenter.stream(clip))
            # What a mistake left in flight ends here: pycuda frees memory without letting go of Python,
            # which the simulated TensorRT needs to get on.
            for stream in [r for r in segmenter._runtime._device._allocated if isinstance(r, Stream)]:
                stream.synchronize()
        return sum(not np.array_equal(answer.labels, expected(images).labels) for images, answer in answers)

    return count


def test_a_missing_synchronisation_gives_labels_that_are_not_there_yet(
    wrong: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_results(self: Slot, size: Any) -> Any:
        # planted: self._events[-1].synchronize() is forgotten
        return {output.name: self._result(output, output.shape(size)) for output in self._outputs}

    assert wrong() == 0
    monkeypatch.setattr(Slot, "wait_for_results", wait_for_results)
    monkeypatch.setattr(Slot, "times", lambda self: {})
    assert wrong() > 0


def test_computing_that_does_not_wait_for_the_copy_gives_the_labels_of_the_frame_before(
    wrong: Callable[[], int], sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_in = Stream.copy_in

    def slow(self: Stream, *what: Any) -> None:
        # On a busy machine both streams may be late; this one is later.
        sim.enqueue(self.handle, lambda: time.sleep(0.15))
        copy_in(self, *what)

    monkeypatch.setattr(Stream, "copy_in", slow)
    assert wrong() == 0
    # planted: the streams are not ordered against each other
    monkeypatch.setattr(Stream, "wait", lambda self, event: None)
    monkeypatch.setattr(Slot, "times", lambda self: {})  # not all of its events have come
    assert wrong() > 0


def test_a_buffer_used_again_too_early_gives_another_frames_labels(
    wrong: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer_in(self: TensorRT, slot: Slot, images: np.ndarray, size: Any, profile: Any) -> Any:
        slot.load(images)
        self._queue.enqueue(slot, profile, size)
        self._slots.release(slot)  # planted: released before the result is there
        try:
            return slot.wait_for_results(size)
        finally:
            with suppress(ValueError):  # the next user has it already
                self._slots._idle.remove(slot)

    assert wrong() == 0
    monkeypatch.setattr(TensorRT, "_infer_in", infer_in)
    monkeypatch.setattr("fcn_deploy.runtimes.tensorrt.pool.ResourcePool.acquire", acquire_shared)
    assert wrong() > 0


def acquire_shared(self: Any) -> Any:
    """Takes what is idle, although its last user may still need it."""
    with self._changed:
        if not self._idle and self._created < 1:
            self._idle.append(self._create(0))
            self._created = 1
        while not self._idle:
            self._changed.wait(0.01)
        return self._idle.pop()


def test_a_leak_on_the_way_out_of_an_error_is_counted(
    engine: Path, binding: str, frames: Make, sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(ExitStack):
        """planted: what was made before the error is not given back"""

        def __exit__(self, *_: object) -> None:
            self.pop_all()

    def leaked() -> int:
        with load(engine, cuda_binding=binding) as segmenter:
            before = sim.count("live_bytes")
            sim.memory(before + 100_000)
            with pytest.raises(InferenceError, match="could not allocate"):
                segmenter.infer(frames(1, 24, 32))
            sim.memory(1 << 32)
            return sim.count("live_bytes") - before

    assert leaked() == 0
    monkeypatch.setattr("fcn_deploy.runtimes.tensorrt.slots.ExitStack", Forgetful)
    assert leaked() > 0


def test_memory_not_given_back_after_an_error_outlives_the_segmenter(
    engine: Path, binding: str, frames: Make, sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left() -> int:
        given = OnDevice(frames(1, 24, 32), binding)
        with load(engine, cuda_binding=binding) as segmenter:
            tensorrt.faults["execute"] = "planted"
            with pytest.raises(InferenceError):
                segmenter.infer_device(given)
            tensorrt.faults.clear()
        given.device.close()
        return sim.count("live_bytes")

    assert left() == 0
    monkeypatch.setattr("fcn_deploy.runtimes.tensorrt.results.ResultPool.release", lambda self, memory: None)
    assert left() > 0


def test_a_wrong_stride_gives_other_labels(wrong: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    def load_pitched(self: Slot, images: np.ndarray) -> None:
        # planted: rows are laid out 16 bytes longer than the engine reads them
        batch, height, width, channels = images.shape
        pitched = np.zeros((batch, height, width * channels + 16), np.uint8)
        pitched[..., : width * channels] = images.reshape(batch, height, -1)
        self._host_in.array[: pitched.size] = pitched.reshape(-1)

    assert wrong() == 0
    monkeypatch.setattr(Slot, "load", load_pitched)
    assert wrong() == 10
