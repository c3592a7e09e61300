"""What a latency depends on besides the model: the machine, its load and the versions of libraries."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fcn_deploy
from fcn_deploy.lazy import version_of
from fcn_deploy.runtimes.base import usable_cores

_FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16"),
    *("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)
"""Instruction sets that decide how fast fp32, fp16 and INT8 run, on x86-64 and on Arm."""

_PACKAGES = (
    *("numpy", "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-rtx", "opencv-python", "opencv-python-headless", "pillow"),
)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, system and load; what is not known is None or empty.

    Names of the host, the user and folders are left out: reports are made to be shown.
    """
    facts = _cpuinfo()
    total = _meminfo().get("MemTotal")
    return {
        "cpu": _first(facts, "model name", "Model", "Hardware") or platform.processor() or platform.machine(),
        "board": _text("/proc/device-tree/model"),
        "gpu": _gpu(),
        "architecture": platform.machine(),
        "cores_usable": usable_cores(),
        "cores_total": os.cpu_count(),
        "cores_quota": _quota(),
        "flags": [f for f in _FLAGS if f in _first(facts, "flags", "Features").split()],
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_mb": None if total is None else round(total / 1e6),
        "os": f"{platform.system()} {platform.release()}",
        "load_average": load_average(),
        "cores_in_use": cores_in_use(),
    }


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python, of fcn-deploy and of those packages that are installed; imports none."""
    found = {"python": platform.python_version(), "fcn-deploy": fcn_deploy.__version__}
    return found | {name: version for name in packages if (version := version_of(name)) is not None}


def load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def cores_in_use(seconds: float = 0.5) -> float | None:
    """How many cores all other processes use while this one sleeps; None where the system is not Linux.

    The load average still counts what ended half a minute ago; this does not. Time that the host of a
    virtual machine gave to others (steal) counts as used.
    """
    before = _busy_seconds()
    began = time.monotonic()
    time.sleep(seconds)
    after = _busy_seconds()
    if before is None or after is None:
        return None
    return round((after - before) / (time.monotonic() - began), 2)


def _busy_seconds() -> float | None:
    """user, nice, system, irq, softirq and steal of all cores, since the machine started (proc(5))."""
    fields = _text("/proc/stat").partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    ticks = [int(field) for field in fields[1:9]]
    return float(sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")


_TOLERATED_CORES = 0.25
"""Cores that other programs may use: a desktop is never completely idle."""


def busy_warning(machine: dict[str, Any], threads: int) -> str | None:
    """A warning in words where other processes leave fewer cores free than the benchmark has threads.

    Args:
        machine: what :func:`describe_machine` found.
        threads: how many the benchmark uses.
    """
    in_use, load, cores = machine["cores_in_use"], machine["load_average"], machine["cores_total"]
    taken = load if in_use is None else in_use
    if taken is None or cores is None or taken <= cores - threads + _TOLERATED_CORES:
        return None
    what = f"a load average of {load:.2f}" if in_use is None else f"{in_use:.2f} cores in use by others"
    return (
        f"the machine was busy when the run began: {what}, {cores} cores in all and {threads} "
        f"thread{'s' * (threads > 1)} wanted; close other programs and measure again"
    )


def memory_mb() -> tuple[float, float] | None:
    """Resident megabytes of this process, now and at most since it began; None on Windows."""
    status = _fields("/proc/self/status")
    if "VmHWM" in status:
        return _bytes(status["VmRSS"]) / 1e6, _bytes(status["VmHWM"]) / 1e6
    # ru_maxrss is less exact: on Linux it starts at the peak of the process that this one was forked from.
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak / 1e6, peak / 1e6


def _quota() -> float | None:
    """How many cores a container may use at a time, where it has a limit (cgroup v2)."""
    quota, _, period = _text("/sys/fs/cgroup/cpu.max").partition(" ")
    return round(int(quota) / int(period), 2) if quota.isdigit() and period.isdigit() else None


def _gpu() -> str:
    names = [
        _fields(path).get("Model", "") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/info*"))
    ]
    return ", ".join(name for name in names if name)


def _cpuinfo() -> dict[str, str]:
    return _fields("/proc/cpuinfo")


def _meminfo() -> dict[str, int]:
    return {key: _bytes(value) for key, value in _fields("/proc/meminfo").items()}


def _fields(path: str | Path) -> dict[str, str]:
    """``name : value`` lines; the first of each name counts."""
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def _bytes(value: str) -> int:
    """``123 kB`` in bytes."""
    number = value.split()[0] if value.split() else "0"
    return int(number) * 1024 if number.isdigit() else 0


def _first(facts: dict[str, str], *names: str) -> str:
    return next((facts[name] for name in names if facts.get(name)), "")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""
