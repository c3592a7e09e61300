"""How large the activations of each layer get: min-max, percentile and entropy over a stream of frames.

Each tensor is counted into a histogram of fixed size while frames pass, so memory does not grow with the
number of frames. All three methods read the same histogram. A range includes 0, which INT8 holds exactly; it
ends there for what comes out of a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import CalibrationError

METHODS = ("minmax", "percentile", "entropy")
BINS = 4096
"""Bins of a histogram on each side of zero: 32 for each of int8's 128 levels above it."""

_BLOCK = 1 << 15
"""Values counted at a time: so few that they stay in the CPU's cache, which is four times as fast."""
_SMALLEST = 1e-30
"""Below it the reciprocal of a bin's width is beyond float32."""

Counts = NDArray[np.int64]
Range = tuple[float, float]
"""Lowest and highest value that an activation is to hold; 0 lies between them."""


@dataclass
class Histogram:
    """Counts of the values of one tensor, in equal bins from 0 on in both directions.

    The bins double in width whenever a larger value comes, two old ones making one new one, so
    nothing is lost and nothing has to be read twice. Zeros are counted separately: INT8 holds them
    exactly, and half of a ReLU's output is zero.
    """

    name: str
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """Of the values above zero."""
    below: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """Of the values below zero, by their magnitude."""
    width: float = 0.0
    """Width of a bin; 0 before the first value that is not zero."""
    largest: float = 0.0
    lowest: float = 0.0
    """The smallest value: 0, or below it."""
    zeros: int = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array of any shape.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        largest, lowest = float(values.max(initial=0.0)), float(values.min(initial=0.0))
        if not (np.isfinite(largest) and np.isfinite(lowest)):
            raise CalibrationError(
                f"{self.name} holds NaN or infinity, and INT8 needs finite values; export the model again, "
                "and check it with: fcn-deploy eval"
            )
        filled = int(np.count_nonzero(values))
        self.zeros += values.size - filled
        if not filled:
            return
        self._reach(max(largest, -lowest))
        below, above = self._counted(values.reshape(-1), signed=lowest < 0)
        self.below += below
        self.counts += above
        self.counts[0] -= values.size - filled
        self.largest, self.lowest = max(self.largest, largest), min(self.lowest, lowest)

    def _counted(self, values: NDArray[np.float32], *, signed: bool) -> tuple[Counts, Counts]:
        """How many values lie in each bin below zero, by magnitude, and from zero on."""
        counts = np.zeros(2 * BINS, np.int64)
        factor, zero = np.float32(1 / self.width), BINS if signed else 0
        for start in range(0, len(values), _BLOCK):
            scaled = values[start : start + _BLOCK] * factor
            if signed:
                scaled += BINS  # so that truncation is the floor below zero too
            bins = scaled.astype(np.int64)
            np.clip(bins, 0, zero + BINS - 1, out=bins)  # the largest value belongs to the last bin
            found = np.bincount(bins)
            counts[BINS - zero : BINS - zero + len(found)] += found
        return counts[BINS - 1 :: -1], counts[BINS:]

    def _reach(self, value: float) -> None:
        """Widen the bins until they hold ``value``."""
        if self.width == 0.0:
            self.width = max(value, _SMALLEST) / BINS
        while value > self.width * BINS * (1 + 1e-6):
            self.counts, self.below = (
                np.concatenate([counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
                for counts in (self.counts, self.below)
            )
            self.width *= 2

    def percentile(self, percent: float) -> float:
        """The value that ``percent`` of all values, zeros included, do not exceed; to a bin's width."""
        return min(self._bins_of(self.counts, self.below, percent) * self.width, self.largest)

    def _bins_of(self, side: Counts, other: Counts, percent: float) -> int:
        """How many bins of one side hold what ``percent`` of all values do not exceed."""
        within = self.zeros + int(other.sum())
        wanted = percent / 100 * (within + int(side.sum())) - within
        return int(np.searchsorted(np.cumsum(side), wanted)) + 1

    def entropy(self, levels: int) -> float:
        """The magnitude whose ``levels`` steps keep most of the distribution (see :func:`divergence`)."""
        return min(
            self._least_divergence(self.counts + self.below, 0, levels), max(self.largest, -self.lowest)
        )

    def _least_divergence(self, counts: Counts, zero: int, levels: int) -> float:
        """The magnitude at which to cut off ``counts``, whose values begin at the bin ``zero``.

        Both sides are cut at the same magnitude; the shorter one ends where its values end. Nothing is cut
        off where there is a level for each filled bin, as in a pooled map of few channels.
        """
        above, under = counts[zero:], counts[:zero][::-1]
        # A limit behind an empty bin would put what is cut off where the quantised distribution has
        # nothing, and diverge without bound; so only filled bins can be the last.
        lasts = [_last_filled(above), _last_filled(under)]
        filled = np.flatnonzero(above + (under if zero else 0)) + 1
        ends = filled[lasts[0][filled] + lasts[1][np.minimum(filled, zero)] >= levels]
        if len(filled) < levels or len(ends) == 0:
            return float("inf")

        def best(places: range) -> int:
            return min(places, key=lambda place: divergence_at(int(ends[place])))

        def divergence_at(end: int) -> float:
            start = zero - int(lasts[1][min(end, zero)])
            return divergence(counts, zero + int(lasts[0][end]), levels, start=start)

        coarse = range(0, len(ends), max(1, len(ends) // 64))
        rough = best(coarse)
        found = best(range(max(0, rough - coarse.step), min(len(ends), rough + coarse.step + 1)))
        return int(ends[found]) * self.width

    def limits(self, method: str, *, percent: float, levels: int, symmetric: bool) -> Range:
        """The range by one of :data:`METHODS`; zeros where nothing else was seen.

        Args:
            method: which one.
            percent: for the percentile method: how much each end of the range does not cut off.
            levels: for the entropy method: above zero where ``symmetric``, else of the whole range.
            symmetric: whether the integers lie around zero, so that one magnitude serves both ends.
        """
        if method == "percentile":
            low = self._bins_of(self.below, self.counts, percent) * self.width
            return max(self.lowest, -low), self.percentile(percent)
        if method == "entropy":
            if symmetric or self.lowest == 0:
                limit = self.entropy(levels)
            else:
                limit = self._least_divergence(np.concatenate([self.below[::-1], self.counts]), BINS, levels)
            return max(self.lowest, -limit), min(limit, self.largest)
        return self.lowest, self.largest


def _last_filled(counts: Counts) -> NDArray[np.int64]:
    """For each number of bins from 0 to all: how many are left without the empty ones at their end."""
    places = np.arange(1, len(counts) + 1)
    return np.concatenate([[0], np.maximum.accumulate(np.where(counts > 0, places, 0))])


def divergence(counts: Counts, end: int, levels: int, *, start: int = 0) -> float:
    """Kullback-Leibler divergence of a distribution from itself cut off at both ends and quantised.

    After Migacz, "8-bit Inference with TensorRT" (GTC 2017): what lies beyond ``end`` counts into the
    last bin of the reference, and what lies before ``start`` into its first; the quantised distribution
    spreads each level's counts evenly over those of its bins that are not empty.

    Args:
        counts: a histogram.
        end: the bin behind the last that the range covers.
        levels: steps of the integer type over the range; at most ``end - start``.
        start: the first bin that the range covers.

    Returns:
        The divergence in nats; infinite where the cut empties a bin that had counts.
    """
    inside = counts[start:end].astype(np.float64)
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    reference[0] += counts[:start].sum()
    size = len(inside)
    level = np.minimum(np.arange(size) * levels // size, levels - 1)
    filled = inside > 0
    share = np.bincount(level, inside, levels) / np.maximum(np.bincount(level, filled, levels), 1)
    quantised = np.where(filled, share[level], 0.0)
    present = reference > 0
    if not filled[present].all():
        return float("inf")
    p = reference[present] / reference.sum()
    q = quantised[present] / quantised.sum()
    return float(np.sum(p * np.log(p / q)))
