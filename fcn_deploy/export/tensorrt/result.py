"""What a build gives."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcn_deploy.runtimes.tensorrt.sidecar import Sidecar


@dataclass(frozen=True)
class EngineResult:
    """An engine that was built and written, with its sidecar."""

    path: Path
    """The engine; its sidecar lies beside it."""
    sidecar: Sidecar = field(repr=False)
    """What the file beside the engine says."""
    seconds: float
    """That the whole call took."""

    @property
    def precision(self) -> str:
        """That the graph declares, one of :data:`~fcn_deploy.spec.PRECISIONS`."""
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
            "file": str(self.path),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "seconds": round(self.seconds, 2),
            "sidecar": json.loads(self.sidecar.to_json()),
        }

    def __str__(self) -> str:
        sidecar, target = self.sidecar, self.sidecar.target
        gpus = ", ".join(target.compute_capabilities) + (" and later" if target.later else "")
        return (
            f"{self.path}: {self.precision}, {self.bytes / 1e6:.1f} MB, built by {sidecar.line} "
            f"{sidecar.version} for compute capability {gpus} in {self.seconds:.1f} s"
        )
