"""The driver through pycuda: older devices have it, and much camera code is written with it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import InferenceError
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.cuda.driver import DeviceLost
from fcn_deploy.runtimes.cuda.gpus import driver_library

_LOST = (
    *("illegal", "misaligned address", "global/shared address space", "invalid program counter"),
    *("hardware stack error", "launch failure", "timed out", "tensor memory not completely freed"),
    *("uncorrectable", "hardware error", "context is destroyed", "busy or unavailable", "unknown error"),
)
"""Words in the driver's text for errors after which every further call on the context fails."""


@final
class _Held:
    """pycuda's stream or event, which has no call that destroys it: it goes with the last name for it.

    So this has the only one. Otherwise an exception on its way would keep it, by the frames that it
    came through, until after the device is closed, and then pycuda can destroy nothing.
    """

    def __init__(self, thing: Any) -> None:
        self.it = thing


@final
class PyCuda:
    """See :class:`fcn_deploy.runtimes.cuda.driver.Driver`."""

    can_capture = False  # pycuda has no calls for CUDA graphs

    def __init__(self) -> None:
        self._cuda: Any = require("pycuda.driver", extra="pycuda")
        self.name = self.compute_capability = ""

    def open(self, index: int) -> None:
        with self._words():
            self._cuda.init()
            device = self._cuda.Device(index)
            self.name = device.name()
            self.compute_capability = "{}.{}".format(*device.compute_capability())
            self._context = device.retain_primary_context()

    def push(self) -> None:
        with self._words():
            self._context.push()

    def pop(self) -> None:
        with self._words():
            self._cuda.Context.pop()

    def release(self) -> None:
        with self._words():
            # pycuda lets go of it only in the thread that opened it, or where it is current.
            self._context.push()
            self._context.detach()
        # It leaves the context on the driver's stack once more, out of its own reach.
        driver_library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def memory_info(self) -> tuple[int, int]:
        with self._words():
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Any:
        with self._words():
            return self._cuda.mem_alloc(nbytes)

    def free(self, memory: Any) -> None:
        with self._words():
            memory.free()

    def address(self, memory: Any) -> int:
        return int(memory)

    def allocate_pinned(self, nbytes: int) -> tuple[Any, NDArray[np.uint8]]:
        with self._words():
            array: NDArray[np.uint8] = self._cuda.pagelocked_empty(nbytes, np.uint8)
        return array.base, array

    def free_pinned(self, memory: Any) -> None:
        with self._words():
            memory.free()

    def create_stream(self) -> Any:
        with self._words():
            return _Held(self._cuda.Stream(1))  # CU_STREAM_NON_BLOCKING: not to wait for PyTorch's stream

    def destroy_stream(self, stream: Any) -> None:
        stream.it = None

    def stream_handle(self, stream: Any) -> int:
        return int(stream.it.handle)

    def synchronize(self, stream: Any) -> None:
        with self._words():
            stream.it.synchronize()

    def create_event(self) -> Any:
        with self._words():
            return _Held(self._cuda.Event())

    def destroy_event(self, event: Any) -> None:
        event.it = None

    def record(self, event: Any, stream: Any) -> None:
        with self._words():
            event.it.record(stream.it)

    def record_foreign(self, event: Any, handle: int) -> None:
        # pycuda cannot name a stream that it did not make: everything on the device is waited for instead.
        with self._words():
            self._cuda.Context.synchronize()
            event.it.record()

    def wait(self, stream: Any, event: Any) -> None:
        with self._words():
            stream.it.wait_for_event(event.it)

    def synchronize_event(self, event: Any) -> None:
        with self._words():
            event.it.synchronize()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        with self._words():
            return float(end.it.time_since(start.it))

    def copy_in(self, device: int, host: NDArray[np.uint8], stream: Any) -> None:
        with self._words():
            self._cuda.memcpy_htod_async(device, host, stream.it)

    def copy_out(self, host: NDArray[np.uint8], device: int, stream: Any) -> None:
        with self._words():
            self._cuda.memcpy_dtoh_async(host, device, stream.it)

    def begin_capture(self, stream: Any) -> None:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    def end_capture(self, stream: Any) -> Any:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    def launch(self, graph: Any, stream: Any) -> None:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    def destroy_graph(self, graph: Any) -> None:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    @contextmanager
    def _words(self) -> Iterator[None]:
        """pycuda's errors as ours."""
        try:
            yield
        except self._cuda.Error as exc:
            kind = DeviceLost if any(word in str(exc) for word in _LOST) else InferenceError
            raise kind(str(exc)) from exc
