"""The driver through cuda-python (package cuda-bindings), NVIDIA's own."""

from __future__ import annotations

import ctypes
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import InferenceError
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.cuda.driver import DeviceLost

_LOST = (
    *("CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_ILLEGAL_INSTRUCTION", "CUDA_ERROR_MISALIGNED_ADDRESS"),
    *("CUDA_ERROR_INVALID_ADDRESS_SPACE", "CUDA_ERROR_INVALID_PC", "CUDA_ERROR_HARDWARE_STACK_ERROR"),
    *("CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT", "CUDA_ERROR_TENSOR_MEMORY_LEAK"),
    *("CUDA_ERROR_ECC_UNCORRECTABLE", "CUDA_ERROR_NVLINK_UNCORRECTABLE", "CUDA_ERROR_CONTAINED"),
    *("CUDA_ERROR_CONTEXT_IS_DESTROYED", "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_UNKNOWN"),
)
"""Errors after which every further call on the context fails (CUDA driver API, error codes)."""


@final
class CudaPython:
    """See :class:`fcn_deploy.runtimes.cuda.driver.Driver`."""

    can_capture = True

    def __init__(self) -> None:
        self._cuda: Any = require("cuda.bindings.driver", extra="tensorrt")
        self.name = self.compute_capability = ""

    def open(self, index: int) -> None:
        cuda = self._cuda
        self._call(cuda.cuInit, 0)
        self._device = self._call(cuda.cuDeviceGet, index)
        raw: bytes = self._call(cuda.cuDeviceGetName, 256, self._device)
        self.name = raw.split(b"\0")[0].decode(errors="replace")
        kinds = cuda.CUdevice_attribute
        major, minor = (
            self._call(cuda.cuDeviceGetAttribute, attribute, self._device)
            for attribute in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.compute_capability = f"{major}.{minor}"
        self._context = self._call(cuda.cuDevicePrimaryCtxRetain, self._device)

    def push(self) -> None:
        self._call(self._cuda.cuCtxPushCurrent, self._context)

    def pop(self) -> None:
        self._call(self._cuda.cuCtxPopCurrent)

    def release(self) -> None:
        self._call(self._cuda.cuDevicePrimaryCtxRelease, self._device)

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call(self._cuda.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Any:
        return self._call(self._cuda.cuMemAlloc, nbytes)

    def free(self, memory: Any) -> None:
        self._call(self._cuda.cuMemFree, memory)

    def address(self, memory: Any) -> int:
        return int(memory)

    def allocate_pinned(self, nbytes: int) -> tuple[Any, NDArray[np.uint8]]:
        address = int(self._call(self._cuda.cuMemHostAlloc, nbytes, 0))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return address, array

    def free_pinned(self, memory: Any) -> None:
        self._call(self._cuda.cuMemFreeHost, memory)

    def create_stream(self) -> Any:
        # Without this flag the stream would wait for the default stream, which PyTorch uses.
        return self._call(self._cuda.cuStreamCreate, self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)

    def destroy_stream(self, stream: Any) -> None:
        self._call(self._cuda.cuStreamDestroy, stream)

    def stream_handle(self, stream: Any) -> int:
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        self._call(self._cuda.cuStreamSynchronize, stream)

    def create_event(self) -> Any:
        return self._call(self._cuda.cuEventCreate, self._cuda.CUevent_flags.CU_EVENT_DEFAULT)

    def destroy_event(self, event: Any) -> None:
        self._call(self._cuda.cuEventDestroy, event)

    def record(self, event: Any, stream: Any) -> None:
        self._call(self._cuda.cuEventRecord, event, stream)

    def record_foreign(self, event: Any, handle: int) -> None:
        self._call(self._cuda.cuEventRecord, event, self._cuda.CUstream(handle))

    def wait(self, stream: Any, event: Any) -> None:
        self._call(self._cuda.cuStreamWaitEvent, stream, event, 0)

    def synchronize_event(self, event: Any) -> None:
        self._call(self._cuda.cuEventSynchronize, event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(self._call(self._cuda.cuEventElapsedTime, start, end))

    def copy_in(self, device: int, host: NDArray[np.uint8], stream: Any) -> None:
        self._call(self._cuda.cuMemcpyHtoDAsync, device, host.ctypes.data, host.nbytes, stream)

    def copy_out(self, host: NDArray[np.uint8], device: int, stream: Any) -> None:
        self._call(self._cuda.cuMemcpyDtoHAsync, host.ctypes.data, device, host.nbytes, stream)

    def begin_capture(self, stream: Any) -> None:
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(self._cuda.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: Any) -> Any:
        graph = self._call(self._cuda.cuStreamEndCapture, stream)
        try:
            return self._call(self._cuda.cuGraphInstantiate, graph, 0)
        finally:
            self._call(self._cuda.cuGraphDestroy, graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self._call(self._cuda.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call(self._cuda.cuGraphExecDestroy, graph)

    def _call(self, function: Any, *arguments: Any) -> Any:
        """What a driver call returns after its error code.

        Raises:
            DeviceLost: the code says that the context is gone.
            InferenceError: any other code but success.
        """
        try:
            code, *results = function(*arguments)
        except RuntimeError as exc:  # the driver's library, or this call in it, is missing
            raise InferenceError(f"{function.__name__} cannot be called: {exc}") from exc
        if code != self._cuda.CUresult.CUDA_SUCCESS:
            _, text = self._cuda.cuGetErrorString(code)
            words = text.decode() if text else "no text"
            kind = DeviceLost if code.name in _LOST else InferenceError
            raise kind(f"{function.__name__} failed: {code.name} ({words})")
        return None if not results else results[0] if len(results) == 1 else results
