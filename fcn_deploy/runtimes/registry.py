"""Backends by name, and the one that reads an artefact.

The four of this package are listed here and those of other packages are entry points of the group
``fcn_deploy.backends``: a name and a class derived from :class:`~fcn_deploy.runtimes.backend.Backend`.
One that cannot be loaded does not affect the others; :func:`problems` says why.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fcn_deploy.errors import BackendUnavailable, UsageError, first_line
from fcn_deploy.runtimes.backend import Backend, Description
from fcn_deploy.runtimes.location import Location, locate, short_name
from fcn_deploy.runtimes.segmenter import Segmenter

GROUP = "fcn_deploy.backends"

BUILT_IN = {
    "pytorch": "fcn_deploy.runtimes.pytorch:PyTorchBackend",
    "onnxruntime": "fcn_deploy.runtimes.onnxruntime:OnnxRuntimeBackend",
    "tensorrt": "fcn_deploy.runtimes.tensorrt.backend:TensorRTBackend",
    "openvino": "fcn_deploy.runtimes.openvino:OpenVinoBackend",
}
"""Where several read a file, the first that can run here is taken; those of other packages come last."""


def load(
    path: str | os.PathLike[str], backend: str | None = None, device: str | None = None, **options: Any
) -> Segmenter:
    """Open an artefact on the best backend and device, or on the ones named.

    Args:
        path: ``.onnx`` or ``.safetensors``, as ``fcn-deploy export`` writes them, ``.engine`` with its
            sidecar, as ``fcn-deploy build-engine`` writes it, or a file or URL of another backend.
        backend: a name in :func:`backends`; None takes the first that reads ``path`` and can run here.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes the best that is available.
        options: other options of that backend; None leaves one at its default.

    Raises:
        UsageError: the file, the backend, the device or an option cannot be used.
        ModelError: the file is damaged, or carries no description.
        EngineError: an engine has no sidecar, belongs to another one, or was built for other hardware or
            versions.
        BackendUnavailable: the backend or device cannot run on this machine; says why.
    """
    location = locate(path)
    chosen = backend_for(location, backend)
    given = {name: value for name, value in {"device": device, **options}.items() if value is not None}
    check_options([chosen], given, f", which reads {short_name(location)},")
    asked = chosen.options(**given)
    if reason := unavailable(chosen):
        alternative = f"; {chosen.alternative}" if chosen.alternative else ""
        raise BackendUnavailable(
            f"the {chosen.name} backend, which reads {short_name(location)}, cannot run here: "
            f"{reason}{alternative}"
        )
    return Segmenter(chosen.open(location, asked))


def backends() -> Mapping[str, Backend[Any]]:
    """All that can be loaded, by name: built-in ones first. Imports no library of a backend."""
    return _registered().backends


def problems() -> tuple[tuple[str, str], ...]:
    """Name and reason of each entry point that cannot be used as a backend."""
    return _registered().problems


def readers(location: Location) -> list[Backend[Any]]:
    """The backends that read an artefact, of which only the suffix or scheme is looked at.

    Raises:
        UsageError: there is none; says what each reads, and what to do with a checkpoint.
    """
    found = [backend for backend in backends().values() if backend.reads(location)]
    if not found:
        raise UsageError(_no_reader(location))
    return found


def backend_for(location: Location, name: str | None = None) -> Backend[Any]:
    """The backend that opens an artefact.

    Args:
        location: of which only the suffix or scheme is looked at.
        name: the backend wanted, or None for the first that reads it and can run here.

    Raises:
        UsageError: no backend has this name, it does not read this artefact, or none does.
    """
    if name is not None:
        check_name(name)
    found = readers(location)
    if name is None:
        # Asked only where there is a choice, because asking imports the library.
        usable = (one for one in found if unavailable(one) is None) if len(found) > 1 else iter(found)
        return next(usable, found[0])
    wanted = backends()[name]
    if wanted not in found:
        raise UsageError(_reads_others(wanted, location, found))
    return wanted


def check_name(name: str) -> None:
    """Raises UsageError where a name is none of :func:`backends`."""
    if name in backends():
        return
    if reason := dict(problems()).get(name):
        raise UsageError(f"the backend {name} cannot be used: {reason}")
    raise UsageError(f"unknown backend {name!r}; choose one of {', '.join(backends())}")


def check_options(chosen: Sequence[Backend[Any]], names: Iterable[str], which: str = "") -> None:
    """Raises UsageError where none of these backends has an option; says whose it is.

    Args:
        chosen: the backends that are used.
        names: of the options that are given.
        which: stands behind the names of the backends in the message.
    """
    known = list(dict.fromkeys(name for one in chosen for name in one.option_names()))
    used = list(dict.fromkeys(one.name for one in chosen))
    who = f"the {' and '.join(used)} backend{'s' * (len(used) > 1)}"
    have = "has" if len(used) == 1 else "have"
    for name in sorted(set(names) - set(known)):
        owners = [one.name for one in backends().values() if name in one.option_names()]
        if not owners:
            raise UsageError(f"unknown option {name!r}; {who} {have} {', '.join(known)}")
        raise UsageError(
            f"{who}{which} {have} no option {name}; it is for {' and '.join(owners)}, leave it out"
        )


def unavailable(backend: Backend[Any]) -> str | None:
    """As :meth:`Backend.unavailable`; an error of another package's backend is a reason too."""
    try:
        return backend.unavailable()
    except Exception as exc:
        return f"it could not be asked ({type(exc).__name__}: {first_line(exc)})"


def diagnose(name: str) -> dict[str, Any]:
    """What ``doctor`` shows of a backend, as JSON has it: ``reason`` why it cannot run here (None where it
    can), ``details``, ``rows`` and ``warnings``. Imports its library."""
    backend = backends()[name]
    reason = unavailable(backend)
    try:
        found = backend.diagnose()
    except Exception as exc:
        said = f"the {name} backend could not describe this machine ({type(exc).__name__}: {first_line(exc)})"
        found = Description(warnings=(said,))
    return {"reason": reason, "details": found.facts, "rows": found.rows, "warnings": found.warnings}


class _Registered(NamedTuple):
    backends: Mapping[str, Backend[Any]]
    problems: tuple[tuple[str, str], ...]


@functools.cache
def _registered() -> _Registered:
    """Looked up once a process."""
    found = {name: _load(EntryPoint(name, value, GROUP)) for name, value in BUILT_IN.items()}
    owners = dict.fromkeys(BUILT_IN, "fcn-deploy")
    wrong = []
    for package, entry in _installed():
        try:
            if entry.name in found:
                raise UsageError(f"{owners[entry.name]} has a backend of this name; uninstall one of them")
            found[entry.name] = _load(entry)
            owners[entry.name] = package
        except Exception as exc:  # whatever another package raises while it is imported
            reason = str(exc) if isinstance(exc, UsageError) else f"{type(exc).__name__}: {first_line(exc)}"
            wrong.append((entry.name, f"the package {package} gives no backend ({reason})"))
    return _Registered(MappingProxyType(found), tuple(wrong))


def _load(entry: EntryPoint) -> Backend[Any]:
    kind = entry.load()
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise UsageError(f"{entry.value} is not a class derived from fcn_deploy.runtimes.Backend")
    backend: Backend[Any] = kind()
    if backend.name != entry.name:
        raise UsageError(f"it is registered as {entry.name} and its name is {backend.name}")
    backend.option_names()  # fails here, and not for others, where it has no class of options
    return backend


def _installed() -> list[tuple[str, EntryPoint]]:
    """The group's entry points with their packages, in an order that depends on names only.

    Not by ``importlib.metadata.entry_points``, which fails altogether where one installed package,
    whichever it is, has a damaged file.
    """
    found: dict[str, list[EntryPoint]] = {}
    for package in distributions():
        with contextlib.suppress(Exception):
            if GROUP in (package.read_text("entry_points.txt") or ""):
                entries = [entry for entry in package.entry_points if entry.group == GROUP]
                found.setdefault(package.metadata["Name"], entries)  # as for imports, the first on the path
    pairs = [(package, entry) for package, entries in found.items() for entry in entries]
    return sorted(pairs, key=lambda pair: (pair[1].name, pair[0]))


def _no_reader(location: Location) -> str:
    hints = (one.hint(location) for one in backends().values() if isinstance(location, Path))
    if hint := next(filter(None, hints), None):
        return hint
    accepted = list(dict.fromkeys(one for backend in backends().values() for one in backend.accepts()))
    suffixes = ", ".join(one for one in accepted if one.startswith("."))
    schemes = ", ".join(one for one in accepted if not one.startswith("."))
    expected = f"a file ending in {suffixes}" + (f", or a URL beginning with {schemes}" if schemes else "")
    unusable = "".join(f"; the backend {name} cannot be used: {reason}" for name, reason in problems())
    named = location if isinstance(location, Path) else short_name(location)
    return f"{named} is no artefact; expected {expected}{unusable}"


def _reads_others(wanted: Backend[Any], location: Location, found: list[Backend[Any]]) -> str:
    words = (
        f"the {wanted.name} backend reads {' and '.join(wanted.accepts())}, not {short_name(location)}; "
        f"choose {' or '.join(one.name for one in found)}"
    )
    if wanted.written_by and wanted.suffixes and isinstance(location, Path):
        words += f", or make {location.stem}{wanted.suffixes[0]} with: {wanted.written_by}"
    return words
