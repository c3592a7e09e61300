"""Where a frame lives while it is labelled: two slots, so that one is copied while the other is computed.

A slot has pinned host memory, device memory for every input and output, a stream for its copies
and the events that order them against the one stream on which all computing is done. Everything is
sized once, for the largest batch of any optimization profile, and a frame uses the beginning of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.base import Frames
from fcn_deploy.runtimes.cuda.device import Device, Event, Stream
from fcn_deploy.runtimes.tensorrt.profiles import Size

SLOTS = 2
"""One being computed, one being copied."""


STAGES = ("copy_in", "compute", "copy_out")


@dataclass(frozen=True)
class Output:
    """One output of the deploy graph."""

    name: str
    dtype: np.dtype[Any]
    channels: int | None
    """None for ``[N, H, W]``, a number for ``[N, channels, H, W]``."""

    def shape(self, size: Size) -> tuple[int, ...]:
        """What is answered for frames of this size."""
        batch, height, width = size
        return (batch, height, width) if self.channels is None else (batch, self.channels, height, width)

    def bytes_for(self, pixels: int) -> int:
        """Bytes of the answer for so many pixels in all."""
        return pixels * (self.channels or 1) * self.dtype.itemsize


def outputs_of(names: tuple[str, ...], classes: int) -> tuple[Output, ...]:
    """The outputs of a deploy graph: uint8 labels, float32 confidence and logits."""
    kinds = {
        "labels": Output("labels", np.dtype(np.uint8), None),
        "confidence": Output("confidence", np.dtype(np.float32), None),
        "logits": Output("logits", np.dtype(np.float32), classes),
    }
    return tuple(kinds[name] for name in names)


@final
class Slot:
    """Memory, a stream for copies, and events, for one frame in flight.

    Args:
        device: where.
        number: tells slots apart where something is kept by slot.
        outputs: of the engine.
        pixels: of the largest batch.

    Raises:
        InferenceError: there is not enough memory; what was allocated until then is freed.
    """

    def __init__(self, device: Device, number: int, outputs: tuple[Output, ...], pixels: int) -> None:
        self.number = number
        self._outputs = outputs
        with ExitStack() as made:

            def keep(thing: Any) -> Any:
                made.callback(thing.free)
                return thing

            self.copies: Stream = keep(device.stream())
            self._events: list[Event] = [keep(device.event()) for _ in range(5)]
            self._host_in = keep(device.pinned(pixels * 3))
            self.device_in = keep(device.memory(pixels * 3))
            self._host_out = {o.name: keep(device.pinned(o.bytes_for(pixels))) for o in outputs}
            self.device_out = {o.name: keep(device.memory(o.bytes_for(pixels))) for o in outputs}
            self._made = made.pop_all()

    def addresses(self) -> dict[str, int]:
        """Where the engine reads and writes."""
        return {
            "image": self.device_in.address,
            **{name: memory.address for name, memory in self.device_out.items()},
        }

    def load(self, images: Frames) -> None:
        """Copy contiguous uint8 ``[N, H, W, 3]`` frames into the slot's host memory."""
        np.copyto(self._host_in.array[: images.size].reshape(images.shape), images)

    def start(self, size: Size, compute: Stream, run: Callable[[], None]) -> None:
        """Queue all of it: frames in, ``run`` on the compute stream, answers out. Waits for nothing.

        Args:
            size: of the frames that were loaded.
            compute: the stream of ``run``.
            run: queues the engine on it.
        """
        pixels = math.prod(size)
        began, copied_in, ready, computed, finished = self._events
        began.record(self.copies)
        self.copies.copy_in(self.device_in, self._host_in, 3 * pixels)
        copied_in.record(self.copies)
        compute.wait(copied_in)
        ready.record(compute)
        run()
        computed.record(compute)
        self.copies.wait(computed)
        for output in self._outputs:
            self.copies.copy_out(
                self._host_out[output.name], self.device_out[output.name], output.bytes_for(pixels)
            )
        finished.record(self.copies)

    def finish(self, size: Size) -> dict[str, NDArray[Any]]:
        """Wait for what :meth:`start` queued, and take the answers out as arrays of their own."""
        self._events[-1].synchronize()
        return {output.name: self._answer(output, output.shape(size)) for output in self._outputs}

    def times(self) -> dict[str, float]:
        """Milliseconds of the last frame's stages, between the events; after :meth:`finish`."""
        began, copied_in, ready, computed, finished = self._events
        ends = ((began, copied_in), (ready, computed), (computed, finished))
        return {stage: end.elapsed_ms(start) for stage, (start, end) in zip(STAGES, ends, strict=True)}

    def free(self) -> None:
        """Give everything back."""
        self._made.close()

    def _answer(self, output: Output, shape: tuple[int, ...]) -> NDArray[Any]:
        length = math.prod(shape) * output.dtype.itemsize
        answer: NDArray[Any] = self._host_out[output.name].array[:length].view(output.dtype)
        return answer.reshape(shape).copy()


def settle(*streams: Stream) -> None:
    """After an error: wait until nothing queued can touch memory any more. Raises nothing."""
    for stream in streams:
        with suppress(InferenceError):  # a lost device touches nothing either
            stream.synchronize()
