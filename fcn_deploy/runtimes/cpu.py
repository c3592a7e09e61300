"""What the CPU can do, as far as INT8 cares."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from fcn_deploy.errors import BackendUnavailable
from fcn_deploy.spec import ModelSpec

_X86 = ("x86_64", "AMD64", "i386", "i686")
_VNNI = {"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni", "amx_int8"}


@cache
def cpu_features(source: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """The flags that Linux states for the first CPU; None where they are not known.

    Args:
        source: what Linux writes them into.
    """
    try:
        text = source.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


def has_vnni(features: frozenset[str] | None = None, machine: str | None = None) -> bool | None:
    """Whether byte products are summed without saturation by one instruction.

    Args:
        features: flags of a CPU; None takes this machine's.
        machine: its architecture; None takes this machine's.

    Returns:
        None where it is not known, or the CPU is not an x86: others do not saturate.
    """
    found = cpu_features() if features is None else features
    if (machine or platform.machine()) not in _X86 or found is None:
        return None
    return not found.isdisjoint(_VNNI)


def check_int8(spec: ModelSpec, path: Path, *, fuses_signed: bool = False) -> None:
    """Refuse a file whose integers this CPU would add up wrongly.

    Args:
        spec: its description.
        path: the file, for the message.
        fuses_signed: whether the backend turns signed Q/DQ, made for TensorRT, into integer kernels.
            Their 8-bit weights saturate too: a tenth of the labels changed in OpenVINO.

    Raises:
        BackendUnavailable: its sums need VNNI, and this CPU has none.
    """
    record = spec.evidence.get("quantization")
    assumes = isinstance(record, dict) and bool(record.get("assume_vnni"))
    if fuses_signed and isinstance(record, dict) and record.get("target") == "tensorrt":
        if has_vnni() is False:
            raise BackendUnavailable(
                f"{path} was quantised for TensorRT, and on a CPU without VNNI its sums would saturate at 16 "
                "bits in this backend; use onnxruntime, or quantise for the CPU: --target cpu"
            )
    elif assumes and has_vnni() is False:
        raise BackendUnavailable(
            f"{path} was quantised for CPUs with VNNI, and this one has none: its sums would saturate at 16 "
            "bits and labels go wrong without a word; quantise it again without --assume-vnni"
        )
