"""What is counted and timed is right, and every way of saying it says the same."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from deadline import in_time
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.camera.pipeline import statistics
from fcn_deploy.camera.pipeline.statistics import (
    STAGES,
    WINDOW,
    CameraStatistics,
    Meter,
    Statistics,
    TimingPercentiles,
)

PHASES = ("connecting", "streaming", "reconnecting", "ended")
STATES = ("captured", "dropped", "failed", "delivered")


class Clock:
    """What the module takes for ``time``, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    made = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "time", made)
        yield made


def camera(name: str = "front", phase: str = "streaming", **values: Any) -> CameraStatistics:
    counts = {"reconnects": 0, "message": "", "captured": 0, "dropped": 0, "failed": 0, "delivered": 0}
    return CameraStatistics(name=name, phase=phase, **{**counts, **values})


def now(*cameras: CameraStatistics, **values: Any) -> Statistics:
    rest: dict[str, Any] = {
        "seconds": 1.0,
        "frames_per_second": 0.0,
        "inferred": 0,
        "inferences": 0,
        "age": None,
        "stages": {},
    }
    return Statistics(cameras=cameras, **{**rest, **values})


times = st.floats(0, 1e5)
spreads = st.lists(times, min_size=4, max_size=4).map(lambda four: TimingPercentiles(*sorted(four)))


@st.composite
def camera_statistics(draw: st.DrawFn) -> CameraStatistics:
    """Any that a pipeline can come to: nothing is counted that was not captured."""
    dropped, failed, delivered, away = (draw(st.integers(0, 10**10)) for _ in range(4))
    return CameraStatistics(
        name=draw(st.text()),
        phase=draw(st.sampled_from(PHASES)),
        reconnects=draw(st.integers(0, 1000)),
        message=draw(st.text()),
        captured=dropped + failed + delivered + away,
        dropped=dropped,
        failed=failed,
        delivered=delivered,
    )


all_statistics = st.builds(
    Statistics,
    seconds=times,
    frames_per_second=times,
    inferred=st.integers(0, 10**10),
    inferences=st.integers(0, 10**10),
    cameras=st.lists(camera_statistics(), min_size=1, max_size=3).map(tuple),
    age=st.none() | spreads,
    stages=st.dictionaries(st.sampled_from(sorted(STAGES)), spreads),
)


# Percentiles.


def percentile(values: list[float], percent: float) -> float:
    """Between the two values around it, in proportion."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@given(st.lists(times, min_size=1, max_size=60))
def test_percentiles_are_those_of_all_ages(ages: list[float]) -> None:
    meter = Meter()
    for age in ages:
        meter.delivered(age)
    spread = meter.read(()).age
    assert spread is not None
    expected = [percentile(ages, percent) for percent in (50, 90, 99)]
    assert [spread.p50, spread.p90, spread.p99] == pytest.approx(expected)
    assert spread.max == max(ages)
    assert spread.p50 <= spread.p90 <= spread.p99 <= spread.max


def test_percentiles_are_of_the_last_frames_and_the_maximum_of_all() -> None:
    meter = Meter()
    meter.stage("infer", 9.0)
    for _ in range(WINDOW):
        meter.stage("infer", 0.5)
    assert meter.read(()).stages["infer"] == TimingPercentiles(0.5, 0.5, 0.5, 9.0)


def test_statistics_before_the_first_frame() -> None:
    read = Meter().read((camera(),))
    assert read.age is None and read.stages == {}
    assert (read.seconds, read.frames_per_second, read.inferred, read.inferences) == (0, 0, 0, 0)


def test_every_stage_has_its_own_times() -> None:
    meter = Meter()
    for number, stage in enumerate(STAGES, 1):
        meter.stage(stage, number / 10)
    stages = meter.read(()).stages
    assert {name: spread.p50 for name, spread in stages.items()} == {
        name: number / 10 for number, name in enumerate(STAGES, 1)
    }


def test_frames_and_inferences_are_counted_separately() -> None:
    meter = Meter()
    for frames in (1, 3, 2):
        meter.inference(frames)
    read = meter.read(())
    assert (read.inferred, read.inferences) == (6, 3)


# The rate, and how long it ran.


@pytest.mark.parametrize("rate", [0.5, 1, 10, 30, 250, 1000])
def test_a_steady_rate_is_found(clock: Clock, rate: float) -> None:
    meter = Meter()
    for _ in range(int(20 * rate)):
        clock.now += 1 / rate
        meter.delivered(0.1)
    assert meter.read(()).frames_per_second == pytest.approx(rate, rel=0.02)


def test_the_time_before_the_first_frame_does_not_lower_the_rate(clock: Clock) -> None:
    meter = Meter()
    clock.now += 100  # connecting took long
    for _ in range(5):
        clock.now += 0.1
        meter.delivered(0.1)
    assert meter.read(()).frames_per_second == pytest.approx(10)


def test_a_new_rate_is_found_within_ten_seconds(clock: Clock) -> None:
    meter = Meter()
    for gap, count in ((0.01, 2000), (0.5, 22)):
        for _ in range(count):
            clock.now += gap
            meter.delivered(0.1)
    assert meter.read(()).frames_per_second == pytest.approx(2, rel=0.05)


def test_the_rate_falls_to_zero_without_deliveries(clock: Clock) -> None:
    meter = Meter()
    for _ in range(300):
        clock.now += 1 / 30
        meter.delivered(0.1)
    rates = []
    for _ in range(12):
        rates.append(meter.read(()).frames_per_second)
        clock.now += 1
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(15, rel=0.1), "five of the last ten seconds were silent"
    assert rates[11] == 0


def test_one_frame_gives_no_rate(clock: Clock) -> None:
    meter = Meter()
    meter.delivered(0.1)
    assert meter.read(()).frames_per_second == 0
    clock.now += 1
    assert math.isfinite(meter.read(()).frames_per_second)


@given(st.lists(st.floats(0, 20) | st.just(0.0), max_size=40), st.floats(0, 20))
def test_the_rate_is_finite_for_any_gaps(gaps: list[float], silence: float) -> None:
    clock, meter = Clock(), Meter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "time", clock)
        moments = []
        for gap in gaps:
            clock.now += gap
            moments.append(clock.now)
            meter.delivered(0.1)
            assert math.isfinite(meter.read(()).frames_per_second)
        clock.now += silence
        rate = meter.read(()).frames_per_second
    recent = sum(moment > clock.now - 10 for moment in moments)
    assert 0 <= rate < math.inf
    assert (rate > 0) <= (recent > 1)
    if recent and silence > 0:
        assert rate <= recent / silence, "the silence since the last one counts"


def test_the_time_stops_with_the_run(clock: Clock) -> None:
    meter = Meter()
    meter.begun = clock.now
    for _ in range(10):
        clock.now += 0.5
        meter.delivered(0.1)
    assert meter.read(()).seconds == 5
    meter.ended = clock.now
    clock.now += 100
    later = meter.read(())
    assert later.seconds == 5 and later.frames_per_second == pytest.approx(2)


def test_reading_while_others_write() -> None:
    meter, done = Meter(), threading.Event()

    def write() -> None:
        for number in range(3000):
            meter.stage("infer", number)
            meter.delivered(number)
            meter.inference(1)
        done.set()

    def read() -> None:
        while not done.is_set():
            spread = meter.read(()).age
            assert spread is None or spread.p50 <= spread.p99 <= spread.max

    threading.Thread(target=write, daemon=True).start()
    in_time(read, 10)
    assert meter.read(()).inferred == 3000


# Sums.


@settings(max_examples=15)
@given(all_statistics)
def test_sums_are_those_of_the_cameras(read: Statistics) -> None:
    for name in (*STATES, "in_flight", "reconnects"):
        assert getattr(read, name) == sum(getattr(each, name) for each in read.cameras)
    counted: list[Statistics | CameraStatistics] = [read, *read.cameras]
    for each in counted:
        assert each.captured == each.delivered + each.dropped + each.failed + each.in_flight


# A log line.


def test_the_log_line_has_counts_rate_age_and_model_time() -> None:
    line = str(
        now(
            camera(captured=130, delivered=120, dropped=7, failed=1),
            frames_per_second=29.97,
            age=TimingPercentiles(0.0421, 0.06, 0.081, 0.2),
            stages={"infer": TimingPercentiles(0.033, 0.04, 0.05, 0.1)},
        )
    )
    assert "120 delivered (30.0/s)" in line
    assert "7 dropped" in line and "1 failed" in line
    assert "age 42 ms (p99 81)" in line and "model 33 ms" in line
    assert "reconnect" not in line and "front" not in line


@pytest.mark.parametrize("phase", ["connecting", "reconnecting"])
def test_the_log_line_names_only_cameras_in_trouble(phase: str) -> None:
    line = str(now(camera("left"), camera("right", phase, reconnects=3)))
    assert f"right: {phase}" in line and "left" not in line
    assert "3 reconnects" in line


def test_the_log_line_omits_what_did_not_happen() -> None:
    line = str(now(camera()))
    assert line == "0 delivered (0.0/s), 0 dropped"


def test_the_log_line_is_always_one_line() -> None:
    line = str(now(camera(phase="reconnecting", message="refused\nTraceback:\r\n...")))
    assert line.isprintable()


# JSON.


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


@settings(max_examples=15)
@given(all_statistics)
def test_json_holds_the_same_numbers(read: Statistics) -> None:
    made = json.loads(json.dumps(read.to_json(), allow_nan=False))
    assert made == read.to_json(), "something in it is no JSON type"
    assert all(leaf is None or type(leaf) in (int, float, str) for leaf in leaves(made))
    for name in (*STATES, "in_flight", "reconnects", "inferred", "inferences", "seconds"):
        assert made[name] == getattr(read, name)
    assert made["frames_per_second"] == read.frames_per_second
    assert len(made["cameras"]) == len(read.cameras)
    for each, stated in zip(read.cameras, made["cameras"], strict=True):
        assert stated["captured"] == sum(stated[name] for name in (*STATES[1:], "in_flight"))
        assert (stated["name"], stated["phase"]) == (each.name, each.phase)
        assert (stated["message"], stated["reconnects"]) == (each.message, each.reconnects)
    assert set(made["stages_ms"]) == set(read.stages)
    for stage, spread in read.stages.items():
        assert made["stages_ms"][stage]["p99"] == pytest.approx(1000 * spread.p99)
    if read.age is None:
        assert made["age_ms"] is None
    else:
        expected = {
            name: pytest.approx(1000 * getattr(read.age, name)) for name in ("p50", "p90", "p99", "max")
        }
        assert made["age_ms"] == expected


# Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)", re.DOTALL)
_ABOUT = re.compile(rf"# (HELP|TYPE) ({_NAME}) (.+)", re.DOTALL)
_PLAIN = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> tuple[Samples, dict[str, str]]:
    """Samples by name and labels, and the type of each metric; whatever bends the format is refused."""
    assert text.endswith("\n"), "the last line must end too"
    samples: Samples = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    current = ""
    for line in text[:-1].split("\n"):
        if about := _ABOUT.fullmatch(line):
            word, name, rest = about.groups()
            assert name == current or name not in kinds, f"the lines of {name} are not together"
            current = name
            if word == "HELP":
                assert name not in helped, f"two HELP lines for {name}"
                helped.add(name)
            else:
                assert name not in kinds, f"two TYPE lines for {name}"
                assert rest in ("counter", "gauge", "histogram", "summary", "untyped")
                kinds[name] = rest
            continue
        found = _SAMPLE.fullmatch(line)
        assert found, f"no sample: {line!r}"
        name, inside, number = found.groups()
        assert name == current and name in kinds, f"{name} stands under {current}"
        key = (name, frozenset(_labels(inside)))
        assert key not in samples, f"twice: {line!r}"
        samples[key] = float(number)
    assert helped == set(kinds)
    return samples, kinds


def _labels(inside: str | None) -> list[tuple[str, str]]:
    assert inside != "", "braces without labels"
    found, at = [], 0
    while at < len(inside or ""):
        label = _LABEL.match(inside or "", at)
        assert label, f"no label: {(inside or '')[at:]!r}"
        name, text, _ = label.groups()
        found.append((name, re.sub(r'\\[\\"n]', lambda escaped: _PLAIN[escaped.group()], text)))
        at = label.end()
    assert len({name for name, _ in found}) == len(found), "a label twice"
    return found


def value(samples: Samples, metric: str, /, **labels: str) -> float:
    return samples[f"fcn_deploy_{metric}", frozenset(labels.items())]


@settings(max_examples=15)
@given(all_statistics)
def test_prometheus_reads_the_same_numbers(read: Statistics) -> None:
    samples, kinds = parse(read.prometheus())
    assert all(name.startswith("fcn_deploy_") for name in kinds)
    assert all((kind == "counter") == name.endswith("_total") for name, kind in kinds.items())
    for index, each in enumerate(read.cameras):
        number = str(index)
        for state in STATES:
            assert value(samples, "frames_total", camera=number, state=state) == getattr(each, state)
        assert value(samples, "frames_in_flight", camera=number) == each.in_flight
        assert value(samples, "reconnects_total", camera=number) == each.reconnects
        up = value(samples, "camera_up", camera=number, name=each.name)
        assert up == (each.phase == "streaming")
    assert value(samples, "inferences_total") == read.inferences
    for quantile, name in (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99"), ("1", "max")):
        if read.age:
            age = value(samples, "frame_age_seconds", quantile=quantile)
            assert age == pytest.approx(getattr(read.age, name), rel=1e-6)
        for stage, spread in read.stages.items():
            given = value(samples, "stage_seconds", stage=stage, quantile=quantile)
            assert given == pytest.approx(getattr(spread, name), rel=1e-6)
    # Nothing besides: a sum over the states of a camera must not count a frame twice.
    assert sum(name == "fcn_deploy_frames_total" for name, _ in samples) == 4 * len(read.cameras)


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", "a\nb", "a\\nb", 'rtsp://cam/{x="1"}', "", "Straße ☃", "tab\there", "\\", '\\"']
)
def test_camera_names_are_escaped(name: str) -> None:
    samples, _ = parse(now(camera(name)).prometheus())
    assert value(samples, "camera_up", camera="0", name=name) == 1


def test_two_cameras_with_one_name_stay_separate() -> None:
    samples, _ = parse(now(camera("x"), camera("x", "ended")).prometheus())
    assert value(samples, "camera_up", camera="0", name="x") == 1
    assert value(samples, "camera_up", camera="1", name="x") == 0


def test_prometheus_before_the_run() -> None:
    samples, kinds = parse(Meter().read((camera(),)).prometheus())
    assert "fcn_deploy_frame_age_seconds" not in kinds
    assert value(samples, "frames_total", camera="0", state="captured") == 0


def test_the_tests_parser_refuses_what_is_not_prometheus() -> None:
    head = "# HELP a x\n# TYPE a gauge\n"
    parse(head + "a 1\n")
    for bad in (
        head + "a 1",
        "a 1\n",
        head + "b 1\n",
        head + "a{} 1\n",
        head + 'a{x="1} 1\n',
        head + 'a{x="\\t"} 1\n',
        head + "a 1\na 2\n",
        head + "a one\n",
        head + "# TYPE a gauge\n",
        head + 'a{x="1" y="2"} 1\n',
        head + 'a{x="1",x="2"} 1\n',
    ):
        with pytest.raises((AssertionError, ValueError)):
            parse(bad)
