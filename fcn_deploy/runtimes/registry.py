"""Backends by name. Adding one is one module and one line; none is imported until it is chosen."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fcn_deploy.errors import BackendUnavailable, UsageError
from fcn_deploy.runtimes.artefact import artefact_file, read_spec
from fcn_deploy.runtimes.base import Runtime, RuntimeOptions, check_options
from fcn_deploy.runtimes.segmenter import Segmenter

__all__ = ["BACKENDS", "Backend", "availability", "backend_for", "load", "read_spec"]


@dataclass(frozen=True)
class Backend:
    """Where a backend is found and what it reads."""

    name: str
    target: str
    """``module:Class`` of a :class:`Runtime`."""
    suffixes: tuple[str, ...]
    extra: str
    """The extra of fcn-deploy that brings what it needs."""

    def runtime(self) -> type[Runtime]:
        """Its class; imports its module, and nothing of the vendor's."""
        module, _, name = self.target.partition(":")
        found: type[Runtime] = getattr(importlib.import_module(module), name)
        return found

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, in words; None where it can. Imports the vendor's library."""
        return self.runtime().unavailable()


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        backend.name: backend
        for backend in (
            Backend("pytorch", "fcn_deploy.runtimes.pytorch:PyTorch", (".safetensors",), "export"),
            Backend("onnxruntime", "fcn_deploy.runtimes.onnxruntime:OnnxRuntime", (".onnx",), "cpu"),
            Backend("tensorrt", "fcn_deploy.runtimes.tensorrt.runtime:TensorRT", (".engine",), "tensorrt"),
            Backend("openvino", "fcn_deploy.runtimes.openvino:OpenVino", (".onnx",), "openvino"),
        )
    }
)
"""By name; where several read a suffix, the first that can run here is taken."""


def load(
    path: str | Path, backend: str | None = None, device: str | None = None, **options: Any
) -> Segmenter:
    """Open an artefact on the best backend and device, or on the ones named.

    Args:
        path: ``.onnx`` or ``.safetensors``, as ``fcn-deploy export`` writes them, or ``.engine`` with its
            sidecar, as ``fcn-deploy build-engine`` writes it.
        backend: a name in :data:`BACKENDS`; None goes by the suffix.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes the best that is available.
        options: the other fields of :class:`~fcn_deploy.runtimes.base.RuntimeOptions`.

    Raises:
        UsageError: the file, the backend, the device or an option cannot be used.
        ModelError: the file is damaged, or carries no description.
        EngineError: an engine has no sidecar, is another's, or was built for other hardware or versions.
        BackendUnavailable: the backend or device cannot run on this machine; says why.
    """
    chosen = _options(device, options)
    found = artefact_file(path)
    entry = backend_for(found, backend)
    if chosen.expect_sha256 is not None and entry.name != "tensorrt":
        raise UsageError(
            f"expect_sha256 is checked for engines only, and {found.name} is none; leave it away"
        )
    if reason := entry.unavailable():
        elsewhere = "; the .onnx file that it was built from runs without a GPU" * (found.suffix == ".engine")
        raise BackendUnavailable(
            f"the {entry.name} backend, which reads {found.name}, cannot run here: {reason}{elsewhere}"
        )
    return Segmenter(entry.runtime().open(found, chosen))


def backend_for(path: Path, name: str | None = None) -> Backend:
    """The backend that opens ``path``.

    Args:
        path: an artefact; only its suffix is looked at.
        name: the backend wanted, or None for the first that reads the suffix and can run here.

    Raises:
        UsageError: no backend has this name, it does not read this suffix, or none does.
    """
    if name is not None and name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    suffix = path.suffix.lower()
    readers = [entry for entry in BACKENDS.values() if suffix in entry.suffixes]
    if not readers:
        listed = "; ".join(f"{e.name} reads {' and '.join(e.suffixes)}" for e in BACKENDS.values())
        raise UsageError(f"no backend of this release reads {path.name}: {listed}")
    if name is None:
        if len(readers) == 1:
            return readers[0]  # no choice, so nothing has to be imported or probed for it
        return next((entry for entry in readers if entry.unavailable() is None), readers[0])
    if BACKENDS[name] not in readers:
        raise UsageError(
            f"the {name} backend reads {' and '.join(BACKENDS[name].suffixes)}, not {path.name}; "
            f"choose {' or '.join(e.name for e in readers)}, or export the model again as "
            f"{path.stem}{BACKENDS[name].suffixes[0]}"
        )
    return BACKENDS[name]


def availability() -> list[tuple[Backend, str | None]]:
    """Each backend with the reason why it cannot run here, or None where it can."""
    return [(entry, entry.unavailable()) for entry in BACKENDS.values()]


def _options(device: str | None, given: dict[str, Any]) -> RuntimeOptions:
    known = [field.name for field in dataclasses.fields(RuntimeOptions)]
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"unknown option {unknown[0]!r}; choose from {', '.join(known)}")
    options = RuntimeOptions(device=device, **given)
    check_options(options)
    return options
