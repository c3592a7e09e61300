"""A row while it is measured: its process, what it answered so far, or why it dropped out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bench.process import WorkerProcess
from fcn_deploy.bench.results import Agreement, DeviceStages, Memory, Row, Stages, WarmUp
from fcn_deploy.bench.stats import percentiles, summarise
from fcn_deploy.bench.subjects import STAGES
from fcn_deploy.errors import FcnDeployError, SourceError
from fcn_deploy.metrics import label_agreement


@dataclass(frozen=True)
class Expected:
    """The labels that a row is held against, or why there are none."""

    agreement: Agreement
    """Names the reference, or gives the reason."""
    labels: Path | None = None
    """npy file of uint8 ``[F, H, W]``."""
    classes: int = 0
    """How many the reference tells apart."""


class Contender:
    """One row. Once it has failed, every further step passes it by.

    Args:
        row: what is known before anything is measured.
        subject: what :func:`~fcn_deploy.bench.subjects.open_subject` takes.
        expected: the reference's labels.
        timeout: seconds that its process may be silent.
    """

    def __init__(self, row: Row, subject: dict[str, Any], expected: Expected, timeout: float) -> None:
        self.blank = row
        self.failure = row.failure
        self._subject = subject
        self._expected = expected
        self._timeout = timeout
        self._process: WorkerProcess | None = None
        self._opened: dict[str, Any] = {}
        self._warmed: dict[str, Any] = {}
        self._turns: list[dict[str, Any]] = []
        self._agreement = expected.agreement

    @property
    def case(self) -> str:
        """Size and batch in words."""
        return f"{self.blank.height}x{self.blank.width}, batch {self.blank.batch}"

    @property
    def title(self) -> str:
        """Name, size and batch in words."""
        return f"{self.blank.name} at {self.case}"

    def open(self, process: WorkerProcess, frames: Path) -> None:
        """Load the artefact in its process and answer once."""
        self._process = process
        self._opened = self._ask("open", frames=str(frames), batch=self.blank.batch, subject=self._subject)

    def warm(self, seconds: float) -> None:
        """Call until latency is steady, at most so long."""
        self._warmed = self._ask("warm", seconds=seconds)

    def measure(self, seconds: float) -> None:
        """One turn of timed calls."""
        self._turns.append(self._ask("measure", seconds=seconds))

    def agree(self, out: Path) -> None:
        """Answer every frame once more, into ``out``, and compare the labels with the reference's."""
        if self._expected.labels is None or not self._ask("labels", out=str(out)):
            return
        try:
            self._agreement = compare(np.load(self._expected.labels), np.load(out), self._agreement)
        except SourceError as exc:
            self.failure = str(exc)

    def row(self) -> Row:
        """What was measured. Raises nothing: a row that failed says why."""
        if self.failure is not None:
            return replace(self.blank, failure=self.failure)
        rounds = {stage: [turn["times_ms"][stage] for turn in self._turns] for stage in STAGES}
        total = [
            [sum(parts) for parts in zip(*stages, strict=True)]
            for stages in zip(*rounds.values(), strict=True)
        ]
        calls = sum(map(len, total))
        stages = {stage: percentiles([x for one in turns for x in one]) for stage, turns in rounds.items()}
        return replace(
            self.blank,
            device=self._opened["device"],
            precision=self._opened["precision"],
            details=self._opened["details"],
            calls=calls,
            frames_per_second=1e3 * calls * self.blank.batch / sum(map(sum, total)),
            latency_ms=summarise(total),
            stages_ms=Stages(**stages),
            device_ms=self._device_stages(),
            load_seconds=self._opened["load_seconds"],
            first_answer_seconds=self._opened["first_answer_seconds"],
            memory_mb=self._memory(),
            warm_up=WarmUp(**{key: self._warmed[key] for key in ("calls", "seconds", "steady")}),
            idle_cpu_seconds=sum(turn["idle_cpu_seconds"] for turn in self._turns),
            agreement=self._agreement,
        )

    def _device_stages(self) -> DeviceStages | None:
        turns = [turn["device_ms"] for turn in self._turns]
        if not all(turns):
            return None
        return DeviceStages(
            **{stage: percentiles([x for one in turns for x in one[stage]]) for stage in turns[0]}
        )

    def _memory(self) -> Memory | None:
        peaks = [turn["peak_mb"] for turn in self._turns]
        if None in peaks:
            return None
        return Memory(self._opened["before_load_mb"], self._opened["after_load_mb"], max(peaks))

    def _ask(self, do: str, seconds: float = 0.0, **fields: Any) -> dict[str, Any]:
        """Let the process run for one request; what goes wrong ends this row and not the benchmark."""
        if self.failure is not None or self._process is None:
            return {}
        self._process.resume()
        try:
            answer = self._process.ask(do, timeout=self._timeout + seconds, seconds=seconds, **fields)
        except FcnDeployError as exc:
            self.failure = str(exc)
            self._process.close()
            return {}
        self._process.pause()
        return answer


def compare(reference: NDArray[np.uint8], labels: NDArray[np.uint8], agreement: Agreement) -> Agreement:
    """``agreement`` with the shares filled in, over all frames and of the worst one.

    Raises:
        SourceError: the shapes differ.
    """
    share = label_agreement(reference, labels)
    worst = min(label_agreement(theirs, ours) for theirs, ours in zip(reference, labels, strict=True))
    return replace(agreement, share=share, worst_frame=worst, frames=len(labels))
