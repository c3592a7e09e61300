"""Simulated engines: what tests run where a real one would need a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcn_deploy.files import sha256_of
from fcn_deploy.runtimes.artefact import identity, read_spec
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size
from fcn_deploy.runtimes.tensorrt.sidecar import TENSORRT, EngineTarget, Sidecar, sidecar_path, this_platform

PROFILES = (
    ((1, 1, 1), (1, 24, 32), (2, 40, 48)),
    ((1, 32, 48), (1, 48, 64), (4, 64, 80)),
)
"""Two that overlap."""


def make_engine(
    path: Path,
    onnx: Path,
    profiles: Sequence[tuple[Size, Size, Size]] = PROFILES,
    *,
    flavor: str = TENSORRT,
    version: str = "10.3.0",
    compute_capability: str = "8.6",
    scratch: int = 4096,
    **sidecar: Any,
) -> Path:
    """A simulated engine of an ONNX artefact, with a real sidecar. Returns ``path``."""
    found = [Profile(index, *bounds) for index, bounds in enumerate(profiles)]
    compatible = bool(sidecar.get("version_compatible"))
    path.write_text(
        json.dumps({"onnx": str(onnx), "profiles": profiles, "scratch": scratch, "compatible": compatible})
    )
    spec = read_spec(onnx)
    described = Sidecar(
        **{
            "spec": spec.with_parent(kind="onnx", name=onnx.name, sha256=identity(onnx)),
            "flavor": flavor,
            "version": version,
            "version_compatible": False,
            "target": EngineTarget(this_platform(), (compute_capability,)),
            "profiles": tuple(found),
            "precision": {
                "declared": {"precision": "fp32", "layers": {"fp32": 1}, "weight_bytes": 0},
                "achieved": "not checked: simulated",
            },
            "engine_sha256": sha256_of(path),
            "engine_bytes": path.stat().st_size,
            "onnx": {"name": onnx.name, "identity": identity(onnx)},
            "build": {"notes": ["simulated"]},
            **sidecar,
        }
    )
    sidecar_path(path).write_text(described.to_json(), encoding="utf-8")
    return path
