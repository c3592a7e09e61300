"""TensorRT and TensorRT-RTX as a backend: its options, and what is known of engines and of this machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fcn_deploy.errors import MissingDependency
from fcn_deploy.files import sha256_of
from fcn_deploy.lazy import import_tensorrt, installed, version_of
from fcn_deploy.runtimes.backend import Backend, BackendOptions, Description
from fcn_deploy.runtimes.base import Runtime
from fcn_deploy.runtimes.cuda import Gpu, binding_problem, describe_gpu, gpu_problem
from fcn_deploy.runtimes.location import Location
from fcn_deploy.runtimes.tensorrt.sidecar import (
    TENSORRT,
    TENSORRT_RTX,
    Sidecar,
    check_engine,
    product_name,
    read_sidecar,
)
from fcn_deploy.spec import ModelSpec

_NOT_RTX = ("8.7", "9.0", "10.0", "10.3", "11.0")
"""Compute capabilities of Jetsons and data-centre GPUs, which TensorRT-RTX does not support."""


@dataclass(frozen=True)
class TensorRTOptions(BackendOptions):
    """How an engine is opened."""

    cuda_binding: str | None = None
    """How it reaches the GPU: ``cuda-python`` or ``pycuda``; None takes the first installed."""
    expect_sha256: str | None = None
    """Hash that the engine must have, 64 hexadecimal digits known from elsewhere; None trusts the sidecar."""


@final
class TensorRTBackend(Backend[TensorRTOptions]):
    """Engines with their sidecar, on an NVIDIA GPU."""

    name = "tensorrt"
    suffixes = (".engine",)
    packages = ("tensorrt", "tensorrt-rtx", "cuda-python", "pycuda")
    written_by = "fcn-deploy build-engine"
    alternative = "the .onnx file that it was built from runs without a GPU"
    options = TensorRTOptions

    def unavailable(self) -> str | None:
        try:
            import_tensorrt()
        except MissingDependency as exc:
            return str(exc)
        return gpu_problem() or binding_problem()

    def read_spec(self, location: Location) -> ModelSpec:
        """From the sidecar. Raises EngineError where it is missing, damaged or of another engine."""
        return read_sidecar(location).spec

    def identity(self, location: Location) -> str:
        """SHA-256 of the engine."""
        return sha256_of(location)

    def open(self, location: Location, options: TensorRTOptions) -> Runtime:
        from fcn_deploy.runtimes.tensorrt.runtime import TensorRT

        return TensorRT.open(
            Path(location),
            device=options.device,
            cuda_binding=options.cuda_binding,
            expect_sha256=options.expect_sha256,
        )

    def describe(self, location: Location) -> Description:
        """What the sidecar says; the engine is hashed and not loaded, and no GPU is needed."""
        sidecar = check_engine(location)
        facts = {
            "tensorrt": sidecar.built_by,
            "version_compatible": sidecar.version_compatible,
            "target": dataclasses.asdict(sidecar.target),
            "profiles": [str(profile) for profile in sidecar.profiles],
            "layer_precision": sidecar.precision,
            "onnx": sidecar.onnx,
            "build": sidecar.build,
        }
        return Description(facts, _engine_rows(sidecar))

    def diagnose(self) -> Description:
        """Each flavor that is installed, and what it builds and runs here."""
        gpu = describe_gpu()
        flavors = [
            {"flavor": flavor, "version": version_of(package), **_abilities(flavor, gpu)}
            for module, package, flavor in (
                ("tensorrt", "tensorrt", TENSORRT),
                ("tensorrt_rtx", "tensorrt-rtx", TENSORRT_RTX),
            )
            if installed(module)
        ]
        return Description({"flavors": flavors}, [row for one in flavors for row in _flavor_rows(one)])


def _engine_rows(sidecar: Sidecar) -> list[tuple[str, str]]:
    target = sidecar.target
    capabilities = ", ".join(target.compute_capabilities) + (" and later" if target.later else "")
    gpu = f", {target.gpu}" if target.gpu else ""
    later = " or later" if sidecar.version_compatible else ""
    return [
        ("built by", f"{sidecar.built_by}{later}"),
        ("built for", f"{target.platform}, compute capability {capabilities}{gpu}"),
        *(("profile", f"{profile} (batch x height x width)") for profile in sidecar.profiles),
        *((name, _precision_in_words(found)) for name, found in sidecar.precision.items()),
    ]


def _precision_in_words(found: Any) -> str:
    """Layer counts by type, or the sentence that says why there are none."""
    if not isinstance(found, dict):
        return str(found)
    layers = found.get("layers", found)
    return ", ".join(f"{count} layers {kind}" for kind, count in layers.items())


def _flavor_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (product_name(found["flavor"]), found["version"] or "version unknown"),
        ("  builds", found["builds"]),
        ("  runs", found["runs"]),
    ]


def _abilities(flavor: str, gpu: Gpu | None) -> dict[str, str]:
    """What a flavor builds and runs on this machine, in words."""
    reason = gpu_problem() or "the GPU cannot be used"
    here = "" if gpu is None else f"{gpu.name} (compute capability {gpu.compute_capability})"
    runs = f"on {here}" if here else f"no: {reason}"
    if flavor == TENSORRT:
        builds = f"for {here}" if here else f"nothing, it builds on the GPU itself ({reason})"
        return {"builds": builds, "runs": runs}
    if gpu is not None and gpu.compute_capability in _NOT_RTX:
        runs = f"no: it does not support compute capability {gpu.compute_capability}"
    return {"builds": "for GeForce and RTX GPUs, Turing and later, on any machine", "runs": runs}
