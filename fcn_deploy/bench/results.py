"""The result of a benchmark. The field names are those of its JSON: see ``docs/explanation/bench-method.md``.

Latencies are milliseconds, memory is megabytes (10^6 bytes), shares run from 0 to 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fcn_deploy.bench.figures import number, share
from fcn_deploy.results import Result, Rows

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Percentiles:
    """Of single calls, by nearest rank. With fewer than 100 calls p99 is the slowest one."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Latency:
    """End-to-end milliseconds of single calls, over all rounds."""

    p50: float
    p90: float
    p99: float
    min: float
    iqr: float
    """p75 - p25."""
    rounds: tuple[float, ...]
    """The median of each round, in order."""
    round_spread: float
    """(largest - smallest) / middle of those medians."""


@dataclass(frozen=True)
class Stages:
    """Milliseconds of the three parts of each call."""

    preprocess: Percentiles
    infer: Percentiles
    postprocess: Percentiles


@dataclass(frozen=True)
class DeviceStages:
    """Milliseconds on the device, between CUDA events: what lies in the stage ``infer``."""

    copy_in: Percentiles
    """Frames from pinned host memory to the device."""
    compute: Percentiles
    copy_out: Percentiles
    """Labels from the device to pinned host memory."""


@dataclass(frozen=True)
class MemoryUse:
    """Resident megabytes of the row's own process, Python and the frames included."""

    before_load: float
    after_load: float
    peak: float
    """The largest value up to the last timed call."""


@dataclass(frozen=True)
class WarmUp:
    """The calls before the first round, which are not counted."""

    calls: int
    seconds: float
    steady: bool
    """False where the time for the warm-up ended while latency was still falling."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the baseline, round by round: above 1 is faster."""

    baseline: str
    """The row's name."""
    median: float
    min: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f} to {self.max:.2f})"


@dataclass(frozen=True)
class Agreement:
    """The share of labels equal to the PyTorch fp32 reference on the frames measured."""

    share: float | None = None
    """Over all pixels of all frames, 0 to 1; None where it is not known."""
    worst_frame: float | None = None
    """The share on the frame with the lowest one."""
    frames: int = 0
    reference: str | None = None
    """What it was compared with, in words."""
    reason: str | None = None
    """Why the share is not known, in words."""


@dataclass(frozen=True)
class Row:
    """An artefact on a backend, at one size and batch: what was measured, or why it was not."""

    name: str
    kind: str
    """``artefact``, or ``typical`` for typical user code."""
    artefact: str
    """A bare file name."""
    backend: str
    height: int
    width: int
    batch: int
    description: str = ""
    """What the name stands for, where it does not say so itself."""
    note: str = ""
    """The note in the model's own description, such as how it was trained."""
    failure: str | None = None
    """Why this row could not be measured; None where it was."""
    device: str | None = None
    precision: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """What the backend reports about how it runs."""
    calls: int = 0
    """Timed calls, each of ``batch`` frames."""
    frames_per_second: float | None = None
    """Throughput: frames labelled in all timed calls, divided by the time that these took."""
    latency_ms: Latency | None = None
    stages_ms: Stages | None = None
    device_ms: DeviceStages | None = None
    """None where the backend does not time the device."""
    load_seconds: float | None = None
    """Opening the artefact in a fresh process, with the import of the backend's library."""
    first_answer_seconds: float | None = None
    """From the start of opening to the first labels."""
    memory_mb: MemoryUse | None = None
    warm_up: WarmUp | None = None
    idle_cpu_seconds: float | None = None
    """Processor time that the process used while other rows were timed; about 0."""
    ratio: Ratio | None = None
    agreement: Agreement = Agreement()

    @property
    def measured(self) -> bool:
        """Whether there are figures."""
        return self.failure is None

    @property
    def case(self) -> str:
        """Size and batch in words."""
        return f"{self.height}x{self.width}, batch {self.batch}"

    @property
    def is_baseline(self) -> bool:
        """Whether the other rows of this size and batch are compared with this one."""
        return self.ratio is not None and self.ratio.baseline == self.name

    def figures(self) -> str:
        """Latency, throughput, speed against the baseline, and agreement, in a line."""
        if self.latency_ms is None:
            return f"not measured: {self.failure}"
        latency = self.latency_ms
        figures = [
            f"{number(latency.p50)} ms (p90 {number(latency.p90)}, p99 {number(latency.p99)})",
            f"{number(self.frames_per_second)} frames/s",
        ]
        if self.ratio is not None and not self.is_baseline:
            figures.append(f"{self.ratio} times as fast as {self.ratio.baseline}")
        return f"{', '.join(figures)}, labels equal to the reference: {share(self.agreement.share)}"


@dataclass(frozen=True, repr=False)
class BenchmarkResult(Result):
    """One benchmark: its rows, and everything that the figures depend on."""

    rows: tuple[Row, ...]
    """One for each artefact, backend, size and batch."""
    method: dict[str, Any]
    """``text``, sentences that say how it was measured, and the numbers they speak of."""
    machine: dict[str, Any]
    """Processor, memory, GPU, system and load."""
    versions: dict[str, str]
    """Of Python and the libraries that are installed."""
    threads: int
    """Of every row."""
    started_at: str
    """UTC, ISO 8601."""
    warnings: tuple[str, ...] = ()
    """What may have distorted the figures, in words."""
    schema_version: int = SCHEMA_VERSION

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows without figures."""
        return tuple(row for row in self.rows if not row.measured)

    def to_dict(self) -> dict[str, Any]:
        """As ``bench --json`` writes it: dictionaries, lists, strings, numbers and None."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def summary(self) -> Rows:
        return [
            *((f"{row.name} at {row.case}", row.figures()) for row in self.rows),
            *(("warning", sentence) for sentence in self.warnings),
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
