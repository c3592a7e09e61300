"""A row while it is measured: its process, its times so far, or why it failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bench.process import WorkerProcess
from fcn_deploy.bench.results import Agreement, DeviceStages, MemoryUse, Row, Stages, WarmUp
from fcn_deploy.bench.stats import percentiles, summarise
from fcn_deploy.bench.subjects import STAGES
from fcn_deploy.errors import FcnDeployError, SourceError
from fcn_deploy.metrics import label_agreement


@dataclass(frozen=True)
class ReferenceLabels:
    """The labels that a row is compared with, or why there are none."""

    agreement: Agreement
    """Names the reference, or gives the reason."""
    file: Path | None = None
    """npy file of uint8 ``[F, H, W]``."""
    classes: int = 0
    """How many classes the reference has."""


class RowMeasurement:
    """One row and its process. Once it has failed, every further step does nothing.

    Args:
        row: what is known before anything is measured.
        subject: what :func:`~fcn_deploy.bench.subjects.open_bench_subject` takes.
        reference: the reference's labels.
        timeout: seconds to wait for a response of its process.
    """

    def __init__(self, row: Row, subject: dict[str, Any], reference: ReferenceLabels, timeout: float) -> None:
        self.known = row
        self.failure = row.failure
        self._subject = subject
        self._reference = reference
        self._timeout = timeout
        self._process: WorkerProcess | None = None
        self._opened: dict[str, Any] = {}
        self._warmed_up: dict[str, Any] = {}
        self._rounds: list[dict[str, Any]] = []
        self._agreement = reference.agreement

    @property
    def title(self) -> str:
        """Name, size and batch in words."""
        return f"{self.known.name} at {self.known.case}"

    def open(self, process: WorkerProcess, frames: Path) -> None:
        """Load the artefact in its process and label one batch."""
        self._process = process
        self._opened = self._ask("open", frames=str(frames), batch=self.known.batch, subject=self._subject)

    def warm_up(self, seconds: float) -> None:
        """Call until latency is steady, for at most ``seconds``."""
        self._warmed_up = self._ask("warm_up", seconds=seconds)

    def measure(self, seconds: float) -> None:
        """The timed calls of one round."""
        self._rounds.append(self._ask("measure", seconds=seconds))

    def compare_labels(self, out: Path) -> None:
        """Label every frame once more, into ``out``, and compare the labels with the reference's."""
        if self._reference.file is None or not self._ask("labels", out=str(out)):
            return
        try:
            self._agreement = compare(np.load(self._reference.file), np.load(out), self._agreement)
        except SourceError as exc:
            self.failure = str(exc)

    def row(self) -> Row:
        """What was measured. Raises nothing: a row that failed says why."""
        if self.failure is not None:
            return replace(self.known, failure=self.failure)
        times = {stage: [one["times_ms"][stage] for one in self._rounds] for stage in STAGES}
        total = [
            [sum(parts) for parts in zip(*stages, strict=True)]
            for stages in zip(*times.values(), strict=True)
        ]
        calls = sum(map(len, total))
        stages = {stage: percentiles([x for one in rounds for x in one]) for stage, rounds in times.items()}
        return replace(
            self.known,
            device=self._opened["device"],
            precision=self._opened["precision"],
            details=self._opened["details"],
            calls=calls,
            frames_per_second=1e3 * calls * self.known.batch / sum(map(sum, total)),
            latency_ms=summarise(total),
            stages_ms=Stages(**stages),
            device_ms=self._device_stages(),
            load_seconds=self._opened["load_seconds"],
            first_answer_seconds=self._opened["first_answer_seconds"],
            memory_mb=self._memory(),
            warm_up=WarmUp(**{key: self._warmed_up[key] for key in ("calls", "seconds", "steady")}),
            idle_cpu_seconds=sum(one["idle_cpu_seconds"] for one in self._rounds),
            agreement=self._agreement,
        )

    def _device_stages(self) -> DeviceStages | None:
        rounds = [one["device_ms"] for one in self._rounds]
        if not all(rounds):
            return None
        return DeviceStages(
            **{stage: percentiles([x for one in rounds for x in one[stage]]) for stage in rounds[0]}
        )

    def _memory(self) -> MemoryUse | None:
        peaks = [one["peak_mb"] for one in self._rounds]
        if None in peaks:
            return None
        return MemoryUse(self._opened["before_load_mb"], self._opened["after_load_mb"], max(peaks))

    def _ask(self, do: str, seconds: float = 0.0, **fields: Any) -> dict[str, Any]:
        """Let the process run for one request; an error ends this row and not the benchmark."""
        if self.failure is not None or self._process is None:
            return {}
        self._process.resume()
        try:
            response = self._process.ask(do, timeout=self._timeout + seconds, seconds=seconds, **fields)
        except FcnDeployError as exc:
            self.failure = str(exc)
            self._process.close()
            return {}
        self._process.pause()
        return response


def compare(reference: NDArray[np.uint8], labels: NDArray[np.uint8], agreement: Agreement) -> Agreement:
    """``agreement`` with the shares filled in, over all frames and of the worst one.

    Args:
        reference: uint8 ``[F, H, W]``.
        labels: of the same shape.
        agreement: names the reference.

    Raises:
        SourceError: the shapes differ.
    """
    share = label_agreement(reference, labels)
    worst = min(label_agreement(theirs, ours) for theirs, ours in zip(reference, labels, strict=True))
    return replace(agreement, share=share, worst_frame=worst, frames=len(labels))
