"""What the CPU can do that matters for INT8."""

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
    """The flags of the first CPU; None where they are not known, as on other systems than Linux.

    Args:
        source: the file that Linux lists them in.
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
    """Whether the CPU has VNNI, which sums products of bytes without saturation.

    Args:
        features: flags of a CPU; None takes this machine's.
        machine: its architecture; None takes this machine's.

    Returns:
        None where it is not known, or the CPU is not x86: other CPUs do not saturate.
    """
    found = cpu_features() if features is None else features
    if (machine or platform.machine()) not in _X86 or found is None:
        return None
    return not found.isdisjoint(_VNNI)


def check_int8(spec: ModelSpec, path: Path, *, fuses_signed: bool = False) -> None:
    """Refuse a file whose sums of integers would saturate on this CPU.

    Args:
        spec: its description.
        path: the file, for the message.
        fuses_signed: whether the backend computes signed Q/DQ, made for TensorRT, with integer kernels.
            Their 8-bit weights saturate too: a tenth of the labels changed in OpenVINO.

    Raises:
        BackendUnavailable: its sums need VNNI, which this CPU does not have.
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
            "bits and labels would be wrong without any error; quantise it again without --assume-vnni"
        )
