"""Results that stay on the device: their memory is reused once their user drops them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, final

from fcn_deploy.runtimes.cuda import Device, DeviceArray, DeviceSegmentation
from fcn_deploy.runtimes.tensorrt.profiles import Size
from fcn_deploy.runtimes.tensorrt.slots import EngineOutput
from fcn_deploy.spec import ModelSpec


@final
class ResultMemory:
    """Device memory for one result of any size, with an event for when it is computed.

    Raises:
        InferenceError: there is not enough memory; what was allocated until then is freed.
    """

    def __init__(self, device: Device, outputs: tuple[EngineOutput, ...], pixels: int) -> None:
        self._outputs = outputs
        with ExitStack() as stack:
            self.ready = device.event()
            stack.callback(self.ready.free)
            self._memory: dict[str, Any] = {}
            for output in outputs:
                self._memory[output.name] = device.memory(output.bytes_for(pixels))
                stack.callback(self._memory[output.name].free)
            self._allocations = stack.pop_all()

    def addresses(self) -> dict[str, int]:
        """Tensor name -> device memory that the engine writes."""
        return {name: memory.address for name, memory in self._memory.items()}

    def arrays(self, size: Size, owner: object) -> dict[str, DeviceArray]:
        """The result for frames of this size; each array keeps ``owner`` alive."""
        return {
            output.name: DeviceArray(
                self._memory[output.name].address, output.shape(size), output.dtype, owner
            )
            for output in self._outputs
        }

    def free(self) -> None:
        """Free everything."""
        self._allocations.close()


class _Lease:
    """What all arrays of one result refer to; when it is collected, the memory goes back to the pool."""


@final
class ResultPool:
    """Memory for results.

    There is as much of it as there were results in use at the same time. When the pool is closed, idle
    memory is freed at once and the rest as it is released; then ``when_empty`` is called.

    Args:
        create: allocates memory for one result.
        when_empty: called once, when the pool is closed and nothing is in use any more.
    """

    def __init__(self, create: Callable[[], ResultMemory], when_empty: Callable[[], None]) -> None:
        self._create = create
        self._when_empty = when_empty
        self._idle: list[ResultMemory] = []
        self._in_use = 0
        self._closed = self._freeing = False
        # Reentrant: the garbage collector may release memory in the middle of any line below.
        self._lock = threading.RLock()

    def acquire(self) -> ResultMemory:
        """Memory for a result: reused, or new. Raises InferenceError where there is not enough."""
        with self._lock:
            memory = self._idle.pop() if self._idle else self._create()
            self._in_use += 1
            return memory

    def release(self, memory: ResultMemory) -> None:
        """Return memory to the pool."""
        with self._lock:
            self._in_use -= 1
            self._idle.append(memory)
            self._free_if_closed()

    def result(self, memory: ResultMemory, size: Size, spec: ModelSpec) -> DeviceSegmentation:
        """The result in ``memory``, which is released when the last of its arrays is collected."""
        lease = _Lease()
        weakref.finalize(lease, self.release, memory).atexit = False
        return DeviceSegmentation(spec=spec, **memory.arrays(size, lease))

    def close(self) -> None:
        """Free what is idle; the rest is freed as it is released."""
        with self._lock:
            self._closed = True
            self._free_if_closed()

    def _free_if_closed(self) -> None:
        if not self._closed or self._freeing:
            return
        self._freeing = True  # memory that is released meanwhile is freed by this same loop
        while self._idle:
            self._idle.pop().free()
        self._freeing = False
        if self._in_use == 0:
            self._when_empty()
