"""Counts and times of a pipeline: as an object, a log line, JSON, or text for Prometheus."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

WINDOW = 1000
"""Frames that percentiles are taken over, the last ones; the maximum is of the whole run."""

_RATE_WINDOW = 10.0
"""Seconds that the current rate is taken over."""

STAGES = {
    "capture": "until the source had the next frame: decoding, and waiting for a live camera",
    "wait": "from capture until the model took it",
    "infer": "from there until its result was ready",
    "collect": "from there until delivery began",
    "deliver": "in the sinks",
}
"""The stages of a frame. Its age at delivery is wait, infer and collect together."""

_TROUBLE = ("connecting", "reconnecting")
"""Phases of a camera that the log line names."""


@dataclass(frozen=True)
class TimingPercentiles:
    """Percentiles and maximum of a time, in seconds."""

    p50: float
    p90: float
    p99: float
    max: float

    def milliseconds(self) -> dict[str, float]:
        return {name: 1e3 * value for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class CameraStatistics:
    """One camera of a pipeline."""

    name: str
    phase: str
    """``connecting``, ``streaming``, ``reconnecting`` or ``ended``."""
    reconnects: int
    message: str
    """Its last problem, as a sentence; empty where there was none."""
    captured: int
    dropped: int
    """Frames that were replaced by newer ones, or left over when the pipeline stopped."""
    failed: int
    """Frames whose inference or delivery failed."""
    delivered: int

    @property
    def in_flight(self) -> int:
        """Frames that wait, are with the model, or are being delivered."""
        return self.captured - self.dropped - self.failed - self.delivered


@dataclass(frozen=True)
class Statistics:
    """The state of a pipeline at one moment.

    ``captured == delivered + dropped + failed + in_flight``, for each camera and in sum.
    """

    seconds: float
    """Since the run began; after its end, the length of the run."""
    frames_per_second: float
    """Deliveries a second, over the last ten seconds."""
    inferred: int
    """Frames that the model labelled."""
    inferences: int
    """Results of the model; fewer than frames where several cameras share one."""
    cameras: tuple[CameraStatistics, ...]
    age: TimingPercentiles | None
    """Seconds from capture to delivery; None before the first frame."""
    stages: dict[str, TimingPercentiles]
    """Seconds by stage: ``capture``, ``wait``, ``infer``, ``collect``, ``deliver``."""

    @property
    def captured(self) -> int:
        """Frames of all cameras."""
        return sum(camera.captured for camera in self.cameras)

    @property
    def dropped(self) -> int:
        """Frames that were replaced by newer ones, or left over when the pipeline stopped."""
        return sum(camera.dropped for camera in self.cameras)

    @property
    def failed(self) -> int:
        """Frames whose inference or delivery failed."""
        return sum(camera.failed for camera in self.cameras)

    @property
    def delivered(self) -> int:
        """Frames that reached every sink."""
        return sum(camera.delivered for camera in self.cameras)

    @property
    def in_flight(self) -> int:
        """Frames that wait, are with the model, or are being delivered."""
        return sum(camera.in_flight for camera in self.cameras)

    @property
    def reconnects(self) -> int:
        """How often a lost stream was reconnected."""
        return sum(camera.reconnects for camera in self.cameras)

    def __str__(self) -> str:
        """One line for a log."""
        parts = [
            f"{self.delivered} delivered ({self.frames_per_second:.1f}/s)",
            f"{self.dropped} dropped",
        ]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.age:
            parts.append(f"age {1e3 * self.age.p50:.0f} ms (p99 {1e3 * self.age.p99:.0f})")
        if infer := self.stages.get("infer"):
            parts.append(f"model {1e3 * infer.p50:.0f} ms")
        if self.reconnects:
            parts.append(f"{self.reconnects} reconnect{'s' * (self.reconnects > 1)}")
        parts += [f"{camera.name}: {camera.phase}" for camera in self.cameras if camera.phase in _TROUBLE]
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Numbers and strings only; times in milliseconds."""
        total = {
            name: getattr(self, name)
            for name in ("captured", "dropped", "failed", "inferred", "inferences", "delivered", "in_flight")
        }
        return {
            **total,
            "reconnects": self.reconnects,
            "seconds": self.seconds,
            "frames_per_second": self.frames_per_second,
            "age_ms": self.age.milliseconds() if self.age else None,
            "stages_ms": {name: times.milliseconds() for name, times in self.stages.items()},
            "cameras": [
                {**dataclasses.asdict(camera), "in_flight": camera.in_flight} for camera in self.cameras
            ],
        }

    def prometheus(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        return "".join(f"{line}\n" for line in _prometheus(self))


def _prometheus(now: Statistics) -> Iterator[str]:
    yield from _head("frames_total", "counter", "Frames by camera and what became of them.")
    for index, camera in enumerate(now.cameras):
        for state in ("captured", "dropped", "failed", "delivered"):
            yield _sample("frames_total", getattr(camera, state), camera=index, state=state)
    yield from _head("frames_in_flight", "gauge", "Frames that wait, are inferred or being delivered.")
    for index, camera in enumerate(now.cameras):
        yield _sample("frames_in_flight", camera.in_flight, camera=index)
    yield from _head("reconnects_total", "counter", "How often a lost stream was reconnected.")
    for index, camera in enumerate(now.cameras):
        yield _sample("reconnects_total", camera.reconnects, camera=index)
    yield from _head("camera_up", "gauge", "1 while the camera streams.")
    for index, camera in enumerate(now.cameras):
        yield _sample("camera_up", int(camera.phase == "streaming"), camera=index, name=camera.name)
    yield from _head("inferences_total", "counter", "Results of the model.")
    yield _sample("inferences_total", now.inferences)
    if now.age:
        yield from _head("frame_age_seconds", "gauge", "From capture to delivery, of the last frames.")
        for label, value in _quantiles(now.age):
            yield _sample("frame_age_seconds", value, quantile=label)
    yield from _head("stage_seconds", "gauge", "Time in each stage, of the last frames.")
    for stage, times in now.stages.items():
        for label, value in _quantiles(times):
            yield _sample("stage_seconds", value, stage=stage, quantile=label)


def _head(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP fcn_deploy_{name} {about}", f"# TYPE fcn_deploy_{name} {kind}"


def _sample(metric: str, value: float, /, **labels: object) -> str:
    inside = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
    number = str(value) if isinstance(value, int) else f"{value:.9g}"  # large counters stay exact
    return f"fcn_deploy_{metric}{{{inside}}} {number}" if inside else f"fcn_deploy_{metric} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _quantiles(times: TimingPercentiles) -> Iterable[tuple[str, float]]:
    return (("0.5", times.p50), ("0.9", times.p90), ("0.99", times.p99), ("1", times.max))


@final
class Series:
    """The last values of a time, in seconds, and the largest of all."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._largest = 0.0

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        self._largest = max(self._largest, seconds)

    def values(self) -> tuple[list[float], float]:
        return list(self._last), self._largest


@final
class Meter:
    """Collects the times of a running pipeline; its threads write, any thread may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._age = Series()
        self._stages = {name: Series() for name in STAGES}
        self._delivered_at: deque[float] = deque(maxlen=WINDOW)
        self.begun: float | None = None
        self.ended: float | None = None
        self.inferred = 0
        self.inferences = 0

    def stage(self, name: str, seconds: float) -> None:
        """Note how long a frame, or a group of frames, was in a stage."""
        with self._lock:
            self._stages[name].add(seconds)

    def inference(self, frames: int) -> None:
        """Count one inference of so many frames."""
        with self._lock:
            self.inferred += frames
            self.inferences += 1

    def delivered(self, age: float) -> None:
        """Note that a frame of this age, in seconds, reached its sinks."""
        with self._lock:
            self._age.add(age)
            self._delivered_at.append(time.monotonic())

    def read(self, cameras: tuple[CameraStatistics, ...]) -> Statistics:
        """The statistics at this moment."""
        now = self.ended or time.monotonic()
        with self._lock:  # copies only; percentiles are taken outside, so that no thread waits for them
            age = self._age.values()
            stages = {name: series.values() for name, series in self._stages.items()}
            recent = [moment for moment in self._delivered_at if moment > now - _RATE_WINDOW]
            inferred, inferences = self.inferred, self.inferences
        return Statistics(
            seconds=now - (self.begun or now),
            frames_per_second=_rate(recent, now),
            inferred=inferred,
            inferences=inferences,
            cameras=cameras,
            age=_percentiles(*age),
            stages={name: each for name, values in stages.items() if (each := _percentiles(*values))},
        )


def _rate(recent: list[float], now: float) -> float:
    """Deliveries a second since the first of them; the time since the last one counts."""
    if len(recent) < 2 or now <= recent[0]:
        return 0.0
    since_last = now - recent[-1]
    mean_gap = (recent[-1] - recent[0]) / (len(recent) - 1)
    return (len(recent) - 1) / (now - recent[0] if since_last > mean_gap else recent[-1] - recent[0])


def _percentiles(last: list[float], largest: float) -> TimingPercentiles | None:
    if not last:
        return None
    p50, p90, p99 = np.percentile(last, (50, 90, 99)).tolist()
    return TimingPercentiles(p50, p90, p99, largest)
