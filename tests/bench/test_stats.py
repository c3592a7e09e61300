"""Percentiles are latencies that happened, ratios point the right way, warm-ups end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.bench.stats import is_steady, percentile, percentiles, speed_up, summarise

milliseconds = st.floats(0.001, 1e5)
samples = st.lists(milliseconds, min_size=1, max_size=300)


@given(samples, st.floats(0.1, 100))
def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share / 100 * len(values) - 1e-9
    assert sum(value < found for value in values) < share / 100 * len(values)


@given(samples)
def test_percentiles_are_in_order(values: list[float]) -> None:
    found = percentiles(values)
    assert min(values) <= found.p50 <= found.p90 <= found.p99 <= max(values)


def test_known_percentiles() -> None:
    found = percentiles([float(x) for x in range(1, 101)])
    assert (found.p50, found.p90, found.p99) == (50, 90, 99)


def test_summary_of_rounds() -> None:
    found = summarise([[10, 12, 11], [20, 22, 21]])
    assert found.rounds == (11, 21)
    assert found.round_spread == pytest.approx(10 / 16)
    assert (found.p50, found.p99, found.min) == (12, 22, 10)
    assert found.iqr == 21 - 11


@given(st.lists(st.lists(milliseconds, min_size=1, max_size=9), min_size=1, max_size=9))
def test_spread_is_never_negative(rounds: list[list[float]]) -> None:
    found = summarise(rounds)
    assert found.iqr >= 0 and found.round_spread >= 0
    assert len(found.rounds) == len(rounds)


def test_ratio_above_one_means_faster_than_the_baseline() -> None:
    found = speed_up("slow one", slow=[20, 40, 30], fast=[10, 10, 10])
    assert (found.baseline, found.median, found.min, found.max) == ("slow one", 3, 2, 4)


def test_ratio_is_taken_round_by_round() -> None:
    """A round in which the whole machine was slow changes no ratio."""
    found = speed_up("slow", slow=[20, 200, 20], fast=[10, 100, 10])
    assert found.min == found.max == 2


@given(milliseconds, st.integers(0, 9))
def test_too_few_calls_are_not_steady(value: float, count: int) -> None:
    assert not is_steady([value] * count)


@given(milliseconds, st.integers(10, 40))
def test_the_same_latency_again_is_steady(value: float, count: int) -> None:
    assert is_steady([value] * count)


@given(st.floats(0.5, 0.95), st.integers(10, 40))
def test_latency_that_falls_is_not_steady(factor: float, count: int) -> None:
    assert not is_steady([1000 * factor**i for i in range(count)])


@given(st.floats(1.0, 1.5), st.integers(10, 30))
def test_latency_that_rises_is_steady(factor: float, count: int) -> None:
    assert is_steady([factor**i for i in range(count)])


def test_one_slow_call_does_not_prolong_the_warm_up() -> None:
    assert is_steady([10, 10, 90, 10, 10, 10, 10, 10, 10, 10])
