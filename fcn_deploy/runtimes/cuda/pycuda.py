"""The driver through pycuda, which older devices have and many camera programs use."""

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
"""Words in the driver's messages after which every further call on the context fails."""


@final
class _SoleReference:
    """The only reference to a stream or event of pycuda, which destroys it when the last reference goes.

    pycuda has no call that destroys one. With more references, the traceback of an exception could keep
    it until after the device is closed, and then pycuda cannot destroy it any more.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


@final
class PyCuda:
    """See :class:`fcn_deploy.runtimes.cuda.driver.Driver`."""

    can_capture = False  # pycuda has no calls for CUDA graphs

    def __init__(self) -> None:
        self._cuda: Any = require("pycuda.driver", extra="pycuda")
        self.name = self.compute_capability = ""

    def open(self, index: int) -> None:
        with self._mapped_errors():
            self._cuda.init()
            device = self._cuda.Device(index)
            self.name = device.name()
            self.compute_capability = "{}.{}".format(*device.compute_capability())
            self._context = device.retain_primary_context()

    def push(self) -> None:
        with self._mapped_errors():
            self._context.push()

    def pop(self) -> None:
        with self._mapped_errors():
            self._cuda.Context.pop()

    def release(self) -> None:
        with self._mapped_errors():
            # pycuda releases it only in the thread that opened it, or where it is current.
            self._context.push()
            self._context.detach()
        # pycuda leaves the context on the driver's stack once more, and has no call to take it off.
        driver_library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def memory_info(self) -> tuple[int, int]:
        with self._mapped_errors():
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Any:
        with self._mapped_errors():
            return self._cuda.mem_alloc(nbytes)

    def free(self, memory: Any) -> None:
        with self._mapped_errors():
            memory.free()

    def address(self, memory: Any) -> int:
        return int(memory)

    def allocate_pinned(self, nbytes: int) -> tuple[Any, NDArray[np.uint8]]:
        with self._mapped_errors():
            array: NDArray[np.uint8] = self._cuda.pagelocked_empty(nbytes, np.uint8)
        return array.base, array

    def free_pinned(self, memory: Any) -> None:
        with self._mapped_errors():
            memory.free()

    def create_stream(self) -> Any:
        with self._mapped_errors():
            return _SoleReference(self._cuda.Stream(1))  # CU_STREAM_NON_BLOCKING: see cuda_python.py

    def destroy_stream(self, stream: Any) -> None:
        stream.value = None

    def stream_handle(self, stream: Any) -> int:
        return int(stream.value.handle)

    def synchronize(self, stream: Any) -> None:
        with self._mapped_errors():
            stream.value.synchronize()

    def create_event(self) -> Any:
        with self._mapped_errors():
            return _SoleReference(self._cuda.Event())

    def destroy_event(self, event: Any) -> None:
        event.value = None

    def record(self, event: Any, stream: Any) -> None:
        with self._mapped_errors():
            event.value.record(stream.value)

    def record_foreign(self, event: Any, handle: int) -> None:
        # pycuda cannot record in a stream that it did not make: wait for all work on the device instead.
        with self._mapped_errors():
            self._cuda.Context.synchronize()
            event.value.record()

    def wait(self, stream: Any, event: Any) -> None:
        with self._mapped_errors():
            stream.value.wait_for_event(event.value)

    def synchronize_event(self, event: Any) -> None:
        with self._mapped_errors():
            event.value.synchronize()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        with self._mapped_errors():
            return float(end.value.time_since(start.value))

    def copy_in(self, device: int, host: NDArray[np.uint8], stream: Any) -> None:
        with self._mapped_errors():
            self._cuda.memcpy_htod_async(device, host, stream.value)

    def copy_out(self, host: NDArray[np.uint8], device: int, stream: Any) -> None:
        with self._mapped_errors():
            self._cuda.memcpy_dtoh_async(host, device, stream.value)

    def begin_capture(self, stream: Any) -> None:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    def end_capture(self, stream: Any) -> Any:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    def launch(self, graph: Any, stream: Any) -> None:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    def destroy_graph(self, graph: Any) -> None:
        raise InferenceError("pycuda cannot capture CUDA graphs")

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        """pycuda's errors as :class:`DeviceLost` or :class:`InferenceError`."""
        try:
            yield
        except self._cuda.Error as exc:
            kind = DeviceLost if any(word in str(exc) for word in _LOST) else InferenceError
            raise kind(str(exc)) from exc
