"""What to measure: checks of the arguments before anything runs, and pairs of artefacts and backends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.arguments import as_integer
from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.backend import Backend
from fcn_deploy.runtimes.cuda import BINDINGS
from fcn_deploy.runtimes.location import Location, locate, short_name
from fcn_deploy.runtimes.registry import backend_for, check_name, check_options, readers
from fcn_deploy.runtimes.registry import backends as all_backends
from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class Artefact:
    """A file or URL to measure, with the description that it carries."""

    name: str
    """A bare file name, with its folder or a number where two are the same."""
    path: Location
    spec: ModelSpec


def check_numbers(
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    threads: int | None,
    rounds: int,
    seconds: float,
    timeout: float,
) -> None:
    """Raises UsageError where a number is out of range."""
    for what, values in (("sizes", sizes), ("batches", batches)):
        if not values:
            raise UsageError(f"{what} is empty; give at least one")
    whole = {"rounds": rounds, "threads": 1 if threads is None else threads}
    for name, value in (*whole.items(), *(("batch", batch) for batch in batches)):
        as_integer(name, value, 1)
    for name, duration in (("seconds", seconds), ("timeout", timeout)):
        if not 0 < duration < float("inf"):
            raise UsageError(f"{name} must be above 0, not {duration}")


def check_binding(name: str | None) -> None:
    """Raises UsageError where a CUDA binding is unknown."""
    if name is not None and name not in BINDINGS:
        raise UsageError(f"unknown CUDA binding {name!r}; choose one of {', '.join(BINDINGS)}")


def open_specs(paths: Iterable[str | Path]) -> list[Artefact]:
    """Read the description of each. Raises UsageError and ModelError as read_spec does."""
    found = [locate(path) for path in paths]
    if not found:
        raise UsageError("no artefact was given; name at least one .onnx or .safetensors file")
    specs = [read_spec(location) for location in found]
    return [Artefact(*one) for one in zip(_names(found), found, specs, strict=True)]


def _names(found: list[Location]) -> list[str]:
    """File names without folders; equal ones get their folder or, for the same file again, a number."""
    names: list[str] = []
    for location in found:
        name = short_name(location)
        namesakes = {_resolved(other) for other in found if short_name(other) == name}
        if isinstance(location, Path) and len(namesakes) > 1:
            name = f"{location.resolve().parent.name}/{name}"
        names.append(name)
    return [
        f"{name} ({names[:index].count(name) + 1})" if name in names[:index] else name
        for index, name in enumerate(names)
    ]


def _resolved(location: Location) -> Location:
    return location.resolve() if isinstance(location, Path) else location


def check_sizes(found: list[Artefact], sizes: Sequence[tuple[int, int]]) -> None:
    """Raises UsageError where an artefact does not take frames of a size."""
    for artefact in found:
        _, fixed_height, fixed_width = artefact.spec.fixed_shape
        for height, width in sizes:
            if (fixed_height or height, fixed_width or width) != (height, width):
                only = f"{fixed_height or 'any height'}x{fixed_width or 'any width'}"
                raise UsageError(
                    f"{artefact.name} takes frames of {only} only, not {height}x{width}; measure it with "
                    f"--size {fixed_height or height}x{fixed_width or width}"
                )
            if height < artefact.spec.min_height or width < artefact.spec.min_width:
                raise UsageError(
                    f"{artefact.name} takes frames from {artefact.spec.min_height}x{artefact.spec.min_width} "
                    f"on, not {height}x{width}; leave this size out"
                )
            if height > artefact.spec.max_height or width > artefact.spec.max_width:
                raise UsageError(
                    f"{artefact.name} accepts frames up to {artefact.spec.max_height}x"
                    f"{artefact.spec.max_width}, not {height}x{width}; leave this size out, or export "
                    "the model with a higher limit"
                )


def pair(
    found: list[Artefact], backends: Sequence[str] | None
) -> tuple[list[tuple[Artefact, str]], list[str]]:
    """Artefacts with the backends that read them, and a warning for each that no backend reads.

    Raises:
        UsageError: a backend is unknown, or nothing is left to measure.
    """
    if backends is not None and not backends:
        raise UsageError(f"backends is empty; choose from {', '.join(all_backends())}, or leave it out")
    for name in backends or ():
        check_name(name)
    pairs, warnings = [], []
    for artefact in found:
        if backends is None:
            chosen = [backend_for(artefact.path).name]
        else:
            known = [reader.name for reader in readers(artefact.path)]
            chosen = [name for name in dict.fromkeys(backends) if name in known]
        pairs += [(artefact, name) for name in chosen]
        if not chosen:
            warnings.append(f"{artefact.name} was left out: {' and '.join(backends or ())} cannot read it")
    if not pairs:
        raise UsageError(f"no row is left to measure: {'; '.join(warnings)}")
    return pairs, warnings


def measured_backends(pairs: Iterable[tuple[Artefact, str]]) -> list[Backend[Any]]:
    """The backends of these pairs, each once."""
    return [all_backends()[name] for name in dict.fromkeys(name for _, name in pairs)]


def check_backend_options(chosen: Sequence[Backend[Any]], options: Mapping[str, Any]) -> None:
    """Raises UsageError where no backend has an option, or one that has it refuses its value."""
    check_options(chosen, options)
    try:
        json.dumps(options)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"options of a benchmark go to other processes as JSON: {exc}") from exc
    for backend in chosen:
        backend.options(**backend.own_options(options))
