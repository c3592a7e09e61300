"""The buffers of a frame while it is labelled: two slots, so that one copies while the other computes.

A slot has pinned host memory, device memory for every input and output, a stream for its copies, and
events that order the copies against the one stream in which the engine runs. Everything is allocated
once, for the largest batch of any optimization profile, and a frame uses the beginning of it.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import DEPLOY, Tensor
from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.base import Frames
from fcn_deploy.runtimes.cuda import Device, Event, Stream
from fcn_deploy.runtimes.tensorrt.profiles import Size

SLOTS = 2
"""One computes, one copies."""

STAGES = ("copy_in", "compute", "copy_out")
"""What is timed of each frame, in order."""


@dataclass(frozen=True)
class EngineOutput:
    """One output of the deploy graph."""

    name: str
    tensor: Tensor
    """As the contract states it."""
    classes: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.tensor.dtype)

    def shape(self, size: Size) -> tuple[int, ...]:
        """Of the result for frames of this size."""
        batch, height, width = size
        lengths = {"batch": batch, "height": height, "width": width, "classes": self.classes}
        return self.tensor.shape(lengths)

    def bytes_for(self, pixels: int) -> int:
        """Bytes of the result for so many pixels in all frames."""
        return math.prod(self.shape((1, 1, pixels))) * self.dtype.itemsize


def outputs_of(names: tuple[str, ...], classes: int) -> tuple[EngineOutput, ...]:
    """The outputs of a deploy graph, in this order."""
    return tuple(EngineOutput(name, DEPLOY.outputs[name], classes) for name in names)


@final
class Slot:
    """Memory, a stream for copies, and events, for one frame in flight.

    Args:
        device: where it is allocated.
        number: tells slots apart where something is kept for each.
        outputs: of the engine.
        pixels: of the largest batch.

    Raises:
        InferenceError: there is not enough memory; what was allocated until then is freed.
    """

    def __init__(self, device: Device, number: int, outputs: tuple[EngineOutput, ...], pixels: int) -> None:
        self.number = number
        self._outputs = outputs
        with ExitStack() as stack:

            def freed_with_slot(resource: Any) -> Any:
                stack.callback(resource.free)
                return resource

            self.copies: Stream = freed_with_slot(device.stream())
            self._events: list[Event] = [freed_with_slot(device.event()) for _ in range(5)]
            self._host_in = freed_with_slot(device.pinned(pixels * 3))
            self.device_in = freed_with_slot(device.memory(pixels * 3))
            self._host_out = {o.name: freed_with_slot(device.pinned(o.bytes_for(pixels))) for o in outputs}
            self.device_out = {o.name: freed_with_slot(device.memory(o.bytes_for(pixels))) for o in outputs}
            self._allocations = stack.pop_all()

    def addresses(self) -> dict[str, int]:
        """Tensor name -> device memory that the engine reads or writes."""
        return {
            "image": self.device_in.address,
            **{name: memory.address for name, memory in self.device_out.items()},
        }

    def load(self, images: Frames) -> None:
        """Copy contiguous uint8 ``[N, H, W, 3]`` frames into the slot's host memory."""
        np.copyto(self._host_in.array[: images.size].reshape(images.shape), images)

    def enqueue_copy_in(self, size: Size, compute: Stream) -> None:
        """Enqueue the copy of the loaded frames to the device; ``compute`` waits for it.

        Args:
            size: of the frames that were loaded.
            compute: the stream in which the engine runs next.
        """
        began, copied_in, ready, _, _ = self._events
        began.record(self.copies)
        self.copies.copy_in(self.device_in, self._host_in, 3 * math.prod(size))
        copied_in.record(self.copies)
        compute.wait(copied_in)
        ready.record(compute)

    def enqueue_copy_out(self, size: Size, compute: Stream) -> None:
        """Enqueue the copies of the results to the host, which wait for what ``compute`` holds now."""
        _, _, _, computed, finished = self._events
        computed.record(compute)
        self.copies.wait(computed)
        for output in self._outputs:
            self.copies.copy_out(
                self._host_out[output.name],
                self.device_out[output.name],
                output.bytes_for(math.prod(size)),
            )
        finished.record(self.copies)

    def wait_for_results(self, size: Size) -> dict[str, NDArray[Any]]:
        """Wait until all that was enqueued is done, and copy the results into arrays of their own."""
        self._events[-1].synchronize()
        return {output.name: self._result(output, output.shape(size)) for output in self._outputs}

    def times(self) -> dict[str, float]:
        """Milliseconds of the last frame's stages, by its events; after :meth:`wait_for_results`."""
        began, copied_in, ready, computed, finished = self._events
        spans = ((began, copied_in), (ready, computed), (computed, finished))
        return {stage: end.elapsed_ms(start) for stage, (start, end) in zip(STAGES, spans, strict=True)}

    def free(self) -> None:
        """Free everything."""
        self._allocations.close()

    def _result(self, output: EngineOutput, shape: tuple[int, ...]) -> NDArray[Any]:
        length = math.prod(shape) * output.dtype.itemsize
        result: NDArray[Any] = self._host_out[output.name].array[:length].view(output.dtype)
        return result.reshape(shape).copy()


def synchronize_after_error(*streams: Stream) -> None:
    """Wait until no work in these streams can touch memory any more. Raises nothing."""
    for stream in streams:
        with suppress(InferenceError):  # a lost device does not touch memory either
            stream.synchronize()
