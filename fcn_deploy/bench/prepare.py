"""What rows need before they can be measured: frames, the reference's labels, subjects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.bench.frames import make_frames
from fcn_deploy.bench.measurement import ReferenceLabels, RowMeasurement
from fcn_deploy.bench.plan import Artefact
from fcn_deploy.bench.process import CAN_PAUSE, WorkerProcess
from fcn_deploy.bench.reference import ORIGINAL, BenchReference, chain_reference, named_reference
from fcn_deploy.bench.results import Agreement, Row
from fcn_deploy.bench.typical import NAME as TYPICAL
from fcn_deploy.errors import FcnDeployError, ModelError
from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class Case:
    """What rows that are measured in turns with each other have in common."""

    height: int
    width: int
    batch: int
    frames: Path
    """npy file of the frames, uint8 ``[F, H, W, 3]`` in B, G, R."""


@dataclass(frozen=True)
class BenchSettings:
    """What holds for the whole benchmark; see :func:`~fcn_deploy.bench.method.benchmark`."""

    threads: int
    options: dict[str, Any]
    """Of backends; each row gets those that its backend has."""
    rounds: int
    seconds: float
    timeout: float
    source: Path | None
    folder: Path
    """A temporary folder for all files of the benchmark."""
    step: Callable[[str], None]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def worker(self) -> WorkerProcess:
        """A new process, with a name of its own."""
        return WorkerProcess(self.folder, f"worker{next(self.numbers)}", self.threads)

    def ask_once(self, do: str, timeout: float, **job: Any) -> dict[str, Any]:
        """One request to a process that is started for it and ended after it."""
        with self.worker() as process:
            return process.ask(do, timeout=timeout, job=job)


@dataclass(frozen=True)
class Exported:
    """A plain ONNX file of a network: float NCHW frames in, logits out."""

    path: Path
    spec: ModelSpec
    """How its frames are prepared: that of an artefact of the same network."""

    @property
    def description(self) -> str:
        """In words, as :func:`fcn_deploy.bench.typical.export_typical` describes its own."""
        return (
            f"{self.path.name} as it was exported elsewhere, frames normalised by OpenCV and numpy, float "
            "NCHW in, logits out, argmax in numpy"
        )

    @property
    def reads(self) -> dict[str, Any]:
        """The channel order and the size multiple that it takes."""
        order = self.spec.architecture.options.get("channel_order", "bgr")
        return {"order": order, "multiple": self.spec.size_multiple}


def reference_of(artefact: Artefact, named: str | Path | None, found: list[Artefact]) -> BenchReference | str:
    """The reference that an artefact is compared with, or why there is none."""
    if named is not None:
        return named_reference(str(named), artefact.spec)
    try:
        return chain_reference(artefact.path, artefact.spec, [other.path for other in found])
    except ModelError as exc:
        return str(exc)


def save_frames(settings: BenchSettings, height: int, width: int) -> Path:
    """The frames of one size as an npy file."""
    settings.step(f"making the frames of {height}x{width}")
    path = settings.folder / f"frames-{height}x{width}.npy"
    np.save(path, make_frames(settings.source, height, width))
    return path


def make_reference_labels(
    settings: BenchSettings, reference: BenchReference | str, frames: Path
) -> ReferenceLabels:
    """Label the frames with the reference, in a process of its own that has ended on return."""
    if isinstance(reference, str):
        return ReferenceLabels(Agreement(reason=reference))
    settings.step(f"labelling the frames with the reference {reference.name}")
    out = settings.folder / f"reference{next(settings.numbers)}.npy"
    try:
        response = settings.ask_once(
            "reference",
            # Full-size models are slow on small machines, and all frames are one request.
            settings.timeout * len(np.load(frames, mmap_mode="r")),
            reference=reference.job(),
            frames=str(frames),
            out=str(out),
            trust=bool(settings.options.get("trust")),
        )
    except FcnDeployError as exc:
        return ReferenceLabels(Agreement(reason=f"the reference {reference.name} failed: {exc}"))
    return ReferenceLabels(Agreement(reference=str(reference)), out, response["classes"])


def comparable(labels: ReferenceLabels, classes: int) -> ReferenceLabels:
    """``labels``, or why they cannot be compared with those of a model with so many classes."""
    if labels.file is None or labels.classes == classes:
        return labels
    reason = f"{labels.agreement.reference} has {labels.classes} classes, this model has {classes}"
    return ReferenceLabels(Agreement(reason=reason))


def artefact_row(
    settings: BenchSettings, case: Case, artefact: Artefact, backend: str, labels: ReferenceLabels
) -> RowMeasurement:
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
        "options": settings.options,
    }
    reference = comparable(labels, artefact.spec.num_classes)
    return RowMeasurement(row, {**subject, **_conditions(settings)}, reference, settings.timeout)


def typical_row(
    settings: BenchSettings,
    case: Case,
    reference: BenchReference | str,
    labels: ReferenceLabels,
    exported: Exported | None = None,
) -> RowMeasurement:
    """Typical user code: a file that the user exported, or one that a process of its own exports here.

    Where that fails, the row is a failed one.
    """
    if exported is None and isinstance(reference, BenchReference) and reference.kind == ORIGINAL:
        exported = Exported(Path(str(reference.path)), ModelSpec.from_json(reference.spec))
    row = Row(
        name=TYPICAL,
        kind="typical",
        artefact=TYPICAL,
        backend="onnxruntime",
        height=case.height,
        width=case.width,
        batch=case.batch,
    )
    if exported is not None:
        row = replace(row, description=exported.description)
        plain = {"kind": "typical", "path": str(exported.path), "spec": exported.spec.to_json()}
        subject: dict[str, Any] = {**plain, "reads": exported.reads, **_conditions(settings)}
        return RowMeasurement(row, subject, labels, settings.timeout)
    if isinstance(reference, str):
        failure = f"there is no checkpoint to export: {reference}"
        return RowMeasurement(replace(row, failure=failure), {}, labels, settings.timeout)
    settings.step(f"exporting {TYPICAL} at {case.height}x{case.width}, batch {case.batch}")
    out = settings.folder / f"typical-{case.height}x{case.width}-{case.batch}.onnx"
    job = {"out": str(out), "height": case.height, "width": case.width, "batch": case.batch}
    try:
        made = settings.ask_once("typical", settings.timeout, reference=reference.job(), **job)
    except FcnDeployError as exc:
        failure = f"it could not be exported: {exc}"
        return RowMeasurement(replace(row, failure=failure), {}, labels, settings.timeout)
    row = replace(row, description=made.pop("description"))
    subject = {"kind": "typical", "path": str(out), "spec": reference.spec, "reads": made["reads"]}
    return RowMeasurement(row, {**subject, **_conditions(settings)}, labels, settings.timeout)


def _conditions(settings: BenchSettings) -> dict[str, Any]:
    # Threads of a waiting row cannot spin where its process is stopped, so spinning may stay on there.
    return {"threads": settings.threads, "spinning": CAN_PAUSE}
