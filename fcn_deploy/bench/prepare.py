"""What rows need before they can be measured: frames, the reference's answers, subjects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.bench.contender import Contender, Expected
from fcn_deploy.bench.frames import make_frames
from fcn_deploy.bench.plan import Artefact
from fcn_deploy.bench.process import CAN_PAUSE, WorkerProcess
from fcn_deploy.bench.reference import Reference, chain_reference, named_reference
from fcn_deploy.bench.results import Agreement, Row
from fcn_deploy.bench.typical import NAME as TYPICAL
from fcn_deploy.bench.typical import describe_typical
from fcn_deploy.errors import FcnDeployError, ModelError


@dataclass(frozen=True)
class Case:
    """The rows that are measured in turns with each other."""

    height: int
    width: int
    batch: int
    pool: Path
    """npy file of the frames, uint8 ``[F, H, W, 3]`` in B, G, R."""


@dataclass(frozen=True)
class Settings:
    """What holds for the whole benchmark; see :func:`~fcn_deploy.bench.method.benchmark`."""

    threads: int
    cuda_binding: str | None
    rounds: int
    seconds: float
    timeout: float
    source: Path | None
    folder: Path
    """Temporary; everything made on the way lies in it."""
    step: Callable[[str], None]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def worker(self) -> WorkerProcess:
        """A process whose name nobody had before."""
        return WorkerProcess(self.folder, f"worker{next(self.numbers)}", self.threads)

    def ask_once(self, do: str, timeout: float, **job: Any) -> dict[str, Any]:
        """One request to a process that ends with it."""
        with self.worker() as process:
            return process.ask(do, timeout=timeout, job=job)


def reference_of(artefact: Artefact, named: str | Path | None, found: list[Artefact]) -> Reference | str:
    """What an artefact is held against, or why that is not known."""
    if named is not None:
        return named_reference(str(named), artefact.spec)
    try:
        return chain_reference(artefact.path, artefact.spec, [other.path for other in found])
    except ModelError as exc:
        return str(exc)


def save_frames(settings: Settings, height: int, width: int) -> Path:
    """The frames of one size as an npy file."""
    settings.step(f"making the frames of {height}x{width}")
    path = settings.folder / f"frames-{height}x{width}.npy"
    np.save(path, make_frames(settings.source, height, width))
    return path


def answer(settings: Settings, reference: Reference | str, pool: Path) -> Expected:
    """Let a process of its own answer the frames with the reference; it has ended on return."""
    if isinstance(reference, str):
        return Expected(Agreement(reason=reference))
    settings.step(f"answering with the reference {reference.name}")
    out = settings.folder / f"reference{next(settings.numbers)}.npy"
    try:
        said = settings.ask_once(
            "reference",
            # Full-size models are slow on small machines, and all frames are one request.
            settings.timeout * len(np.load(pool, mmap_mode="r")),
            reference=reference.job(),
            frames=str(pool),
            out=str(out),
        )
    except FcnDeployError as exc:
        return Expected(Agreement(reason=f"the reference {reference.name} did not answer: {exc}"))
    return Expected(Agreement(reference=str(reference)), out, said["classes"])


def expected_of(answers: Expected, classes: int) -> Expected:
    """``answers``, or why they cannot be compared with those of a model of so many classes."""
    if answers.labels is None or answers.classes == classes:
        return answers
    reason = f"{answers.agreement.reference} tells {answers.classes} classes apart, this model {classes}"
    return Expected(Agreement(reason=reason))


def artefact_row(
    settings: Settings, case: Case, artefact: Artefact, backend: str, answers: Expected
) -> Contender:
    """An artefact on a backend, ready to be opened."""
    row = Row(
        name=f"{artefact.name} · {backend}",
        kind="artefact",
        artefact=artefact.name,
        backend=backend,
        height=case.height,
        width=case.width,
        batch=case.batch,
        note=artefact.spec.note,
    )
    subject = {
        "kind": "artefact",
        "path": str(artefact.path),
        "backend": backend,
        "cuda_binding": settings.cuda_binding,
    }
    expected = expected_of(answers, artefact.spec.num_classes)
    return Contender(row, {**subject, **_conditions(settings)}, expected, settings.timeout)


def typical_row(settings: Settings, case: Case, reference: Reference | str, answers: Expected) -> Contender:
    """Typical user code, exported in a process of its own; a failed row where that fails."""
    row = Row(
        name=TYPICAL,
        kind="typical",
        artefact=TYPICAL,
        backend="onnxruntime",
        height=case.height,
        width=case.width,
        batch=case.batch,
    )
    if isinstance(reference, str):
        failure = f"there is no checkpoint to export: {reference}"
        return Contender(replace(row, failure=failure), {}, answers, settings.timeout)
    row = replace(row, description=describe_typical(reference))
    settings.step(f"exporting {TYPICAL} at {case.height}x{case.width}, batch {case.batch}")
    out = settings.folder / f"typical-{case.height}x{case.width}-{case.batch}.onnx"
    job = {"out": str(out), "height": case.height, "width": case.width, "batch": case.batch}
    try:
        settings.ask_once("typical", settings.timeout, reference=reference.job(), **job)
    except FcnDeployError as exc:
        return Contender(
            replace(row, failure=f"it could not be exported: {exc}"), {}, answers, settings.timeout
        )
    subject = {"kind": "typical", "path": str(out), "spec": reference.spec}
    return Contender(row, {**subject, **_conditions(settings)}, answers, settings.timeout)


def _conditions(settings: Settings) -> dict[str, Any]:
    # Where idle processes are stopped their threads cannot spin, so they may while they work.
    return {"threads": settings.threads, "spinning": CAN_PAUSE}
