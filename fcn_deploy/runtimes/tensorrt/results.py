"""Answers that stay on the device: memory lent with an answer, and used again when that is gone."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, final

from fcn_deploy.runtimes.cuda.arrays import DeviceArray, DeviceSegmentation
from fcn_deploy.runtimes.cuda.device import Device
from fcn_deploy.runtimes.tensorrt.profiles import Size
from fcn_deploy.runtimes.tensorrt.slots import Output
from fcn_deploy.spec import ModelSpec


@final
class ResultMemory:
    """Device memory for one answer of any size, with the event that says when it is there."""

    def __init__(self, device: Device, outputs: tuple[Output, ...], pixels: int) -> None:
        self._outputs = outputs
        with ExitStack() as made:
            self.ready = device.event()
            made.callback(self.ready.free)
            self.memory: dict[str, Any] = {}
            for output in outputs:
                self.memory[output.name] = device.memory(output.bytes_for(pixels))
                made.callback(self.memory[output.name].free)
            self.made = made.pop_all()

    def addresses(self) -> dict[str, int]:
        """Where the engine writes."""
        return {name: memory.address for name, memory in self.memory.items()}

    def arrays(self, size: Size, owner: object) -> dict[str, DeviceArray]:
        """The answer for frames of this size, each array keeping ``owner`` alive."""
        return {
            output.name: DeviceArray(
                self.memory[output.name].address, output.shape(size), output.dtype, owner
            )
            for output in self._outputs
        }


class _Loan:
    """What all arrays of one answer hold on to; when it goes, the memory is given back."""


@final
class ResultPool:
    """Lends memory for answers.

    There is as much of it as answers were alive at once. What is out when the pool is closed is
    freed when it comes back, and only then is ``last`` called.

    Args:
        make: makes memory for one answer.
        last: called once, when the pool is closed and nothing is out.
    """

    def __init__(self, make: Callable[[], ResultMemory], last: Callable[[], None]) -> None:
        self._make = make
        self._last = last
        self._idle: list[ResultMemory] = []
        self._out = 0
        self._closed = self._ending = False
        # The garbage collector may give memory back in the middle of any line below.
        self._lock = threading.RLock()

    def take(self) -> ResultMemory:
        """Memory for an answer: used before, or new."""
        with self._lock:
            memory = self._idle.pop() if self._idle else self._make()
            self._out += 1
            return memory

    def give(self, memory: ResultMemory) -> None:
        """Take memory back."""
        with self._lock:
            self._out -= 1
            self._idle.append(memory)
            self._end()

    def lend(self, memory: ResultMemory, size: Size, spec: ModelSpec) -> DeviceSegmentation:
        """The answer, whose memory comes back on its own."""
        loan = _Loan()
        weakref.finalize(loan, self.give, memory).atexit = False
        return DeviceSegmentation(spec=spec, **memory.arrays(size, loan))

    def close(self) -> None:
        """Free what is idle; the rest follows as it comes back."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if not self._closed or self._ending:
            return
        self._ending = True  # what comes back meanwhile is taken by the loop
        while self._idle:
            self._idle.pop().made.close()
        self._ending = False
        if self._out == 0:
            self._last()
