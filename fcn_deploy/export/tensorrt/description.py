"""The sidecar of an engine, made from the request, the graph's declared precision and TensorRT's reports."""

from __future__ import annotations

from typing import Any

from fcn_deploy.errors import EngineError
from fcn_deploy.export.tensorrt.request import BuildRequest, Built
from fcn_deploy.export.tensorrt.source import SourceGraph
from fcn_deploy.runtimes.tensorrt.sidecar import TENSORRT_RTX, EngineTarget, Sidecar, this_platform

RTX_PORTABLE = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT-RTX builds for by default; such engines run on later GPUs too.
Source: "CPU-Only AOT and TensorRT-RTX Engines" in its documentation."""


def describe(
    source: SourceGraph,
    request: BuildRequest,
    built: Built,
    *,
    sha256: str,
    size: int,
    identity: str,
    seconds: float,
) -> Sidecar:
    """The sidecar of an engine.

    Args:
        source: the graph that it was built from.
        request: what was asked for.
        built: what TensorRT reported.
        sha256: of the engine.
        size: of the engine in bytes.
        identity: of the ONNX file.
        seconds: that the build took.

    Raises:
        EngineError: the name of the GPU that it was built for is not known.
    """
    declared = source.declared
    spec = source.spec.replace(
        precision=declared.precision,
        evidence=source.spec.evidence_for_child(),  # checked for the graph, not for the engine
    ).with_parent(kind="onnx", name=source.path.name, sha256=identity)
    return Sidecar(
        spec=spec,
        flavor=built.flavor,
        version=built.version,
        version_compatible=request.settings.version_compatible,
        target=_target(request, built),
        profiles=request.profiles,
        precision={
            "declared": {
                "precision": declared.precision,
                "layers": dict(declared.layers),
                "weight_bytes": declared.weight_bytes,
                "engine_to_fp32_weights": round(size / (4 * max(declared.parameters, 1)), 3),
            },
            **built.checked,
        },
        engine_sha256=sha256,
        engine_bytes=size,
        onnx={"name": source.path.name, "identity": identity},
        build={
            "seconds": round(seconds, 2),
            "settings": _settings(request),
            "memory": {**request.memory, "free": built.free_memory},
            "log": built.log,
            "notes": _notes(source, request, built),
        },
    )


def _target(request: BuildRequest, built: Built) -> EngineTarget:
    settings, gpu = request.settings, built.gpu
    if built.flavor == TENSORRT_RTX:
        chosen = settings.compute_capabilities
        return EngineTarget("any", chosen or RTX_PORTABLE, later=not chosen)
    if settings.hardware_compatible:
        return EngineTarget(this_platform(), ("8.0",), later=True)
    if gpu is None:
        raise EngineError("the name of the GPU that TensorRT built on is not known; check its driver")
    return EngineTarget(this_platform(), (gpu.compute_capability,), gpu=gpu.name, dla_core=settings.dla_core)


def _settings(request: BuildRequest) -> dict[str, Any]:
    """The settings without those that :attr:`Sidecar.target` shows."""
    shown = ("workspace", "optimization_level", "hardware_compatible", "version_compatible")
    return {name: getattr(request.settings, name) for name in shown}


def _notes(source: SourceGraph, request: BuildRequest, built: Built) -> list[str]:
    """What the user should know and no check finds."""
    notes = []
    if built.flavor == TENSORRT_RTX and source.declared.layers.get("int8"):
        notes.append(
            "TensorRT-RTX's support matrix does not list INT8 convolutions, though its builder accepts "
            "them: measure this engine against an fp16 one"
        )
    if request.settings.dla_core is not None:
        notes.append("DLA is unproven: no engine of fcn-deploy has run on one yet")
    return notes
