"""The statistics of a measurement: percentiles, spread, ratios, and when a warm-up is over."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from fcn_deploy.bench.results import Latency, Percentiles, Ratio


def percentile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: always a latency that was measured, never an interpolated one.

    Args:
        samples: at least one.
        share: above 0 and at most 100.
    """
    ordered = sorted(samples)
    return ordered[max(math.ceil(share / 100 * len(ordered)), 1) - 1]


def percentiles(samples: Sequence[float]) -> Percentiles:
    """p50, p90 and p99 of at least one sample."""
    return Percentiles(*(percentile(samples, share) for share in (50, 90, 99)))


def summarise(rounds: Sequence[Sequence[float]]) -> Latency:
    """Latency over all rounds, and how much the rounds differ.

    Args:
        rounds: milliseconds of single calls, by round; at least one call in each.
    """
    samples = [sample for one in rounds for sample in one]
    medians = tuple(statistics.median(one) for one in rounds)
    whole = percentiles(samples)
    return Latency(
        p50=whole.p50,
        p90=whole.p90,
        p99=whole.p99,
        min=min(samples),
        iqr=percentile(samples, 75) - percentile(samples, 25),
        rounds=medians,
        round_spread=(max(medians) - min(medians)) / statistics.median(medians),
    )


def speed_up(baseline: str, slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """How many times as fast ``fast`` is as ``slow``, round by round.

    Args:
        baseline: the name of the row that ``slow`` belongs to.
        slow: median milliseconds of the baseline in each round.
        fast: those of the row that is compared, in the same rounds.

    Returns:
        Above 1 where ``fast`` takes less time than the baseline.
    """
    ratios = [theirs / ours for theirs, ours in zip(slow, fast, strict=True)]
    return Ratio(baseline, statistics.median(ratios), min(ratios), max(ratios))


def is_steady(samples: Sequence[float], window: int = 5, tolerance: float = 0.02) -> bool:
    """Whether latency has stopped falling.

    Args:
        samples: milliseconds of each call so far, in order.
        window: how many calls are taken together.
        tolerance: the fall between two windows, as a share, that still counts as steady.

    Returns:
        True once the median of the last ``window`` calls is not below that of the ``window``
        before by more than the tolerance. A rise is steady too: it is noise, not warming up.
    """
    if len(samples) < 2 * window:
        return False
    before = statistics.median(samples[-2 * window : -window])
    last = statistics.median(samples[-window:])
    return before - last <= tolerance * before
