"""The result of a build."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.describe import evidence_rows, file_facts, file_row, megabytes
from fcn_deploy.results import Result, Rows
from fcn_deploy.runtimes.tensorrt.sidecar import EngineTarget, Sidecar


@dataclass(frozen=True, repr=False)
class EngineResult(Result):
    """An engine that was built and written, with its sidecar."""

    path: Path
    """The engine; its sidecar lies beside it."""
    sidecar: Sidecar
    """The contents of the file beside the engine."""
    seconds: float
    """Of the whole call."""

    @property
    def precision(self) -> str:
        """The precision that the graph declares, one of :data:`~fcn_deploy.spec.PRECISIONS`."""
        return self.sidecar.spec.precision

    @property
    def bytes(self) -> int:
        """The size of the engine."""
        return self.sidecar.engine_bytes

    @property
    def sha256(self) -> str:
        """Of the engine, 64 hexadecimal digits."""
        return self.sidecar.engine_sha256

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``file``, ``bytes``, ``sha256``, ``seconds`` and all of the ``sidecar``."""
        return {
            **file_facts(self),
            "sidecar": json.loads(self.sidecar.to_json()),
        }

    def summary(self) -> Rows:
        sidecar = self.sidecar
        declared, memory = sidecar.precision["declared"], sidecar.build["memory"]
        layers = ", ".join(f"{count} {kind}" for kind, count in sorted(declared["layers"].items()))
        needed = megabytes(memory["weights"] + memory["activations"])
        return [
            file_row(self),
            ("built by", sidecar.built_by),
            ("runs on", _target_words(sidecar.target)),
            ("profiles", ", ".join(map(str, sidecar.profiles))),
            (
                "declared",
                f"{declared['precision']}: convolutions {layers}; the engine has "
                f"{declared['engine_to_fp32_weights']:.0%} of the bytes of fp32 weights",
            ),
            *(row for row in evidence_rows(sidecar.spec.evidence) if row[0] != "made"),
            ("achieved", _achieved_words(sidecar.precision["achieved"])),
            (
                "memory",
                f"at least {needed} on the device, an estimate for {memory['profile'].rpartition(':')[2]}",
            ),
            ("sha256", self.sha256),
            *(("note", note) for note in sidecar.build["notes"]),
        ]


def _target_words(target: EngineTarget) -> str:
    listed = ", ".join(target.compute_capabilities) + (" and later" if target.later else "")
    words = f"compute capability {listed}"
    words = words if target.gpu is None else f"{target.gpu} ({words})"
    return words if target.platform == "any" else f"{words}, {target.platform}"


def _achieved_words(achieved: str | dict[str, int]) -> str:
    if isinstance(achieved, str):
        return achieved
    return ", ".join(f"{count} layers {kind}" for kind, count in sorted(achieved.items()))
