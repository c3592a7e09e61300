"""What is to be measured: arguments checked before anything runs, and artefacts paired with backends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.cuda.driver import BINDINGS
from fcn_deploy.runtimes.registry import BACKENDS, backend_for, read_spec
from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class Artefact:
    """A file to measure, with the description that it carries."""

    name: str
    """A bare file name, with its folder or a number where two are the same."""
    path: Path
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
    for size in sizes:
        if len(size) != 2 or min(size) < 1:
            raise UsageError(f"a size is (height, width), each at least 1, not {tuple(size)}")
    whole = {"batch": min(batches), "rounds": rounds, "threads": 1 if threads is None else threads}
    for name, value in whole.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    for name, duration in (("seconds", seconds), ("timeout", timeout)):
        if not 0 < duration < float("inf"):
            raise UsageError(f"{name} must be above 0, not {duration}")


def check_binding(name: str | None) -> None:
    """Raises UsageError where a CUDA binding is unknown."""
    if name is not None and name not in BINDINGS:
        raise UsageError(f"unknown CUDA binding {name!r}; choose one of {', '.join(BINDINGS)}")


def open_specs(paths: Iterable[str | Path]) -> list[Artefact]:
    """Read the description of each. Raises UsageError and ModelError as read_spec does."""
    files = [Path(path) for path in paths]
    if not files:
        raise UsageError("no artefact was given; name at least one .onnx or .safetensors file")
    specs = [read_spec(file) for file in files]
    return [Artefact(*one) for one in zip(_names(files), files, specs, strict=True)]


def _names(files: list[Path]) -> list[str]:
    """Bare file names; where two are equal, with the folder or, for the same file again, with a number."""
    names: list[str] = []
    for index, file in enumerate(files):
        namesakes = {other.resolve() for other in files if other.name == file.name}
        name = file.name if len(namesakes) == 1 else f"{file.resolve().parent.name}/{file.name}"
        before = sum(other.resolve() == file.resolve() for other in files[:index])
        names.append(f"{name} ({before + 1})" if before else name)
    return names


def check_sizes(found: list[Artefact], sizes: Sequence[tuple[int, int]]) -> None:
    """Raises UsageError where a size is above the limit of an artefact."""
    for artefact in found:
        for height, width in sizes:
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
        raise UsageError(f"backends is empty; choose from {', '.join(BACKENDS)}, or leave it out")
    if unknown := [name for name in backends or () if name not in BACKENDS]:
        raise UsageError(f"unknown backend {unknown[0]!r}; choose one of {', '.join(BACKENDS)}")
    pairs, warnings = [], []
    for artefact in found:
        readers = _readers(artefact.path)
        if backends is None:
            # Which of several can run here is only asked where there is a choice: asking imports them.
            chosen = readers if len(readers) == 1 else [backend_for(artefact.path).name]
        else:
            chosen = [name for name in dict.fromkeys(backends) if name in readers]
        pairs += [(artefact, name) for name in chosen]
        if not chosen:
            warnings.append(f"{artefact.name} was left out: {' and '.join(backends or ())} cannot read it")
    if not pairs:
        raise UsageError(f"no row is left to measure: {'; '.join(warnings)}")
    return pairs, warnings


def _readers(path: Path) -> list[str]:
    return [entry.name for entry in BACKENDS.values() if path.suffix.lower() in entry.suffixes]
