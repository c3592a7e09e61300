"""What the NVIDIA driver says about this machine's GPUs, without any other library."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver describes it."""

    name: str
    compute_capability: str
    """Such as ``8.7``."""
    memory: int
    """Total device memory in bytes."""


def gpu_problem(index: int = 0) -> str | None:
    """Why GPU number ``index`` cannot be used on this machine, in words; None where it can."""
    found = _probe(index)
    return found if isinstance(found, str) else None


def describe_gpu(index: int = 0) -> Gpu | None:
    """GPU number ``index``, or None where it cannot be used. Creates no context on it."""
    driver = _probe(index)
    if isinstance(driver, str):
        return None
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
    """The newest CUDA version that the installed driver can run, such as ``12.6``."""
    version = ctypes.c_int()
    driver_library().cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def free_memory(index: int = 0) -> int | None:
    """Bytes free on GPU number ``index``; None where it cannot be asked.

    Retains the device's primary context for the call, which takes some memory itself.
    """
    driver = _probe(index)
    if isinstance(driver, str):
        return None
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


def driver_library() -> ctypes.CDLL:
    """The installed driver, for calls that a binding does not offer."""
    return ctypes.CDLL(_library())


def _probe(index: int) -> ctypes.CDLL | str:
    """The driver, initialised, or why GPU number ``index`` cannot be used."""
    try:
        driver = driver_library()
    except OSError:
        return f"no NVIDIA driver is installed ({_library()} is not found)"
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or not count.value:
        return "the NVIDIA driver finds no GPU" + (f" (CUDA error {error})" if error else "")
    if index >= count.value:
        return f"there is no cuda:{index}; the last GPU that the driver finds is cuda:{count.value - 1}"
    return driver


def _library() -> str:
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
