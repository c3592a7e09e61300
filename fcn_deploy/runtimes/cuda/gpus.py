"""What the NVIDIA driver says of this machine's GPUs, asked before a vendor's library is loaded."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver names it."""

    name: str
    compute_capability: str
    """Such as ``8.7``."""
    memory: int
    """Bytes in all."""


def gpu_problem(index: int = 0) -> str | None:
    """Why GPU number ``index`` cannot be used on this machine, in words; None where it can."""
    try:
        driver = ctypes.CDLL(_library())
    except OSError:
        return f"no NVIDIA driver is installed ({_library()} is not found)"
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or not count.value:
        return f"the NVIDIA driver finds no GPU (it answers {error})"
    if index >= count.value:
        return f"there is no cuda:{index}; the last GPU that the driver finds is cuda:{count.value - 1}"
    return None


def describe_gpu(index: int = 0) -> Gpu | None:
    """GPU number ``index``, or None where it cannot be used. Makes no context on it."""
    if gpu_problem(index):
        return None
    driver = ctypes.CDLL(_library())
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(capability), memory.value)


def describe_gpus() -> list[Gpu]:
    """Every GPU that can be used here, in the driver's order."""
    found: list[Gpu] = []
    while gpu := describe_gpu(len(found)):
        found.append(gpu)
    return found


def driver_cuda() -> str:
    """The newest CUDA that the driver, which is installed, can run, such as ``12.6``."""
    version = ctypes.c_int()
    driver_library().cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def free_memory(index: int = 0) -> int | None:
    """Bytes free on GPU number ``index``; None where it cannot be asked.

    Retains the device's primary context for the question, which takes some memory itself.
    """
    if gpu_problem(index):
        return None
    driver = ctypes.CDLL(_library())
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        driver.cuCtxPushCurrent_v2(context)
        error = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return None if error else free.value


def _library() -> str:
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def driver_library() -> ctypes.CDLL:
    """The driver, which is installed: for what a binding cannot ask of it."""
    return ctypes.CDLL(_library())
