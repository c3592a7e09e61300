"""Whether an NVIDIA GPU can be used here, asked of the driver before a vendor's library is."""

from __future__ import annotations

import ctypes
import sys


def gpu_problem(index: int = 0) -> str | None:
    """Why GPU number ``index`` cannot be used on this machine, in words; None where it can."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is installed ({library} is not found)"
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or not count.value:
        return f"the NVIDIA driver finds no GPU (it answers {error})"
    if index >= count.value:
        return f"there is no cuda:{index}; the last GPU that the driver finds is cuda:{count.value - 1}"
    return None
