"""Building and steering the simulated CUDA driver from tests, and starting Python on it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = HERE / "simulated_cuda.c"
UNUSED = HERE / "pycuda_symbols.txt"
"""Driver functions that pycuda's extension module refers to and we never call; they answer 801."""
LIBRARY = "libcuda.so.1"
PYCUDA_PYTHON = "FCN_DEPLOY_PYCUDA_PYTHON"
"""Variable that names a Python with pycuda in it, where this one has none (see build_pycuda.sh)."""


@functools.cache
def library() -> Path:
    """The folder that holds the compiled library; compiled once for each version of its source.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("no C compiler: the simulated driver cannot be built")
    digest = hashlib.sha256(SOURCE.read_bytes() + UNUSED.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"fcn-deploy-simulated-cuda-{os.getuid()}-{digest}")
    if not (folder / LIBRARY).exists():
        folder.mkdir(exist_ok=True)
        made, rest = folder / f"{os.getpid()}.so", folder / f"{os.getpid()}.c"
        rest.write_text(
            "".join(f"int {name}(void) {{ return 801; }}\n" for name in UNUSED.read_text().split())
        )
        flags = ["-shared", "-fPIC", "-O1", "-g", f"-Wl,-soname,{LIBRARY}"]
        subprocess.run([compiler, *flags, "-o", made, SOURCE, rest, "-lpthread", "-ldl"], check=True)
        made.rename(folder / LIBRARY)
    return folder


def python_for(binding: str) -> str | None:
    """A Python in which a binding is installed; None where none is known."""
    if importlib.util.find_spec("cuda" if binding == "cuda-python" else "pycuda"):
        return sys.executable
    return os.environ.get(PYCUDA_PYTHON) if binding == "pycuda" else None


def environment(**extra: str) -> dict[str, str]:
    """Variables of a process whose CUDA driver is the simulated one.

    It is preloaded, because pycuda's extension module does not say that it needs it; the folder of
    libcurand, which pycuda also links, is that of NVIDIA's wheels, which PyTorch brings.
    """
    before = os.environ.get("LD_LIBRARY_PATH", "")
    curand = [
        str(p.parent)
        for root in site.getsitepackages()
        for p in Path(root).glob("nvidia/*/lib/libcurand.so.10")
    ]
    paths = os.pathsep.join(filter(None, [str(library()), *curand, before]))
    extra = {"LD_PRELOAD": str(library() / LIBRARY), **extra}
    root = str(HERE.parent.parent)
    python = os.pathsep.join(filter(None, [root, str(HERE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "LD_LIBRARY_PATH": paths, "PYTHONPATH": python, **extra}


def run(
    *arguments: str | Path, python: str = sys.executable, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with the simulated driver in place of the real one."""
    command = [python, "-X", "faulthandler", *map(str, arguments)]
    return subprocess.run(command, env=environment(**extra), capture_output=True, text=True, timeout=600)


class Simulator:
    """The controls of the driver, in a process that was started on it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        if not hasattr(self._library, "sim_count"):
            raise RuntimeError("the CUDA driver of this process is not the simulated one")
        self._library.sim_count.restype = ctypes.c_long
        self._library.sim_violation.restype = ctypes.c_char_p
        self._library.sim_called.restype = ctypes.c_char_p
        self._library.sim_map.restype = ctypes.c_void_p
        self._library.sim_map.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        self._library.sim_memory.argtypes = [ctypes.c_size_t]
        self._library.cuLaunchHostFunc.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

    def count(self, what: str) -> int:
        """A counter (see ``sim_count``), or how often a driver function was called."""
        return int(self._library.sim_count(what.encode()))

    def called(self) -> list[str]:
        """Every driver function that was called so far."""
        names = []
        while name := self._library.sim_called(len(names)):
            names.append(name.decode())
        return names

    def leaks(self) -> dict[str, int]:
        """What is still allocated, by kind; empty where nothing is."""
        kinds = ("device", "pinned", "streams", "events", "graphs", "retained", "live_bytes")
        return {kind: n for kind in kinds if (n := self.count(kind))}

    @property
    def violation(self) -> str:
        """The first rule that was broken, in words; empty where none was."""
        return self._library.sim_violation().decode()

    def delay(self, microseconds: int) -> None:
        """How long a stream waits before each piece of work."""
        self._library.sim_delay(microseconds)

    def memory(self, nbytes: int) -> None:
        """How much device memory there is."""
        self._library.sim_memory(nbytes)

    def fault(self, function: str, nth: int = 1, code: int = 2) -> None:
        """Make the n-th call from now of a driver function fail: 2 out of memory, 719 lost device."""
        self._library.sim_fault(function.encode(), ctypes.c_long(nth), code)

    def bytes_at(self, address: int, nbytes: int) -> Any:
        """Device memory as a ctypes array, for a host function in a stream; None where that is wrong."""
        place = self._library.sim_map(address, nbytes)
        return None if place is None else (ctypes.c_uint8 * nbytes).from_address(place)

    def fail(self, why: str) -> None:
        """What a kernel that found something wrong does: the device is lost."""
        self._library.sim_fail(why.encode())

    def enqueue(self, stream: int, function: Any) -> int:
        """Queue a Python function without arguments; keep what is returned alive until it has run.

        Returns:
            The driver's error code.
        """
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function())
        _KEPT.append(call)
        return int(self._library.cuLaunchHostFunc(stream, ctypes.cast(call, ctypes.c_void_p), None))


_KEPT: list[Any] = []
"""Host functions that were queued: a graph may run them again at any time."""
