"""How large the activations of each layer get: min-max, percentile and entropy over a stream of frames.

Each layer's input is counted into a histogram of fixed size while frames pass, so memory does not
grow with the number of frames. All three methods read the same histogram; the range that INT8 then covers is
``[0, limit]``, since every layer but the first reads the output of a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import CalibrationError

METHODS = ("minmax", "percentile", "entropy")
BINS = 4096
"""Bins of a histogram: 32 for each of int8's 128 levels above zero."""

_SMALLEST = 1e-30
"""Below it the reciprocal of a bin's width is beyond float32."""

Counts = NDArray[np.int64]


@dataclass
class Histogram:
    """Counts of the positive values of one tensor, in equal bins from 0 on.

    The bins double in width whenever a larger value comes, two old ones making one new one, so
    nothing is lost and nothing has to be read twice. Zeros are counted separately: INT8 holds them
    exactly, and half of a ReLU's output is zero.
    """

    name: str
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    width: float = 0.0
    """Width of a bin; 0 before the first positive value."""
    largest: float = 0.0
    zeros: int = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array of any shape.

        Raises:
            CalibrationError: a value is negative, NaN or infinite.
        """
        largest, smallest = float(values.max(initial=0.0)), float(values.min(initial=0.0))
        if not (np.isfinite(largest) and smallest >= 0):
            found = "NaN or infinity" if not np.isfinite(largest) else f"{smallest:.4g}"
            raise CalibrationError(
                f"{self.name} holds {found}, and only finite values from 0 on can come out of a ReLU; export "
                "the model again, and check it with: fcn-deploy eval"
            )
        positive = int(np.count_nonzero(values))
        self.zeros += values.size - positive
        if not positive:
            return
        self._reach(largest)
        # Truncation is the floor of what is positive; the largest value itself belongs to the last bin.
        scaled = np.multiply(values, 1 / self.width, dtype=np.float32).ravel().astype(np.int32)
        counted = np.bincount(np.minimum(scaled, BINS - 1), minlength=BINS)
        counted[0] -= values.size - positive
        self.counts += counted
        self.largest = max(self.largest, largest)

    def _reach(self, value: float) -> None:
        """Widen the bins until they hold ``value``."""
        if self.width == 0.0:
            self.width = max(value, _SMALLEST) / BINS
        while value > self.width * BINS * (1 + 1e-6):
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.width *= 2

    def percentile(self, percent: float) -> float:
        """The value that ``percent`` of all values, zeros included, do not exceed; to a bin's width."""
        wanted = percent / 100 * (self.zeros + int(self.counts.sum())) - self.zeros
        bins = int(np.searchsorted(np.cumsum(self.counts), wanted)) + 1
        return min(bins * self.width, self.largest)

    def entropy(self, levels: int) -> float:
        """The limit whose ``levels`` steps keep most of the distribution (see :func:`divergence`)."""
        # A limit behind an empty bin would put what is cut off where the quantised distribution has
        # nothing, and diverge without bound; so only filled bins can be the last.
        ends = np.flatnonzero(self.counts) + 1
        ends = ends[ends >= levels]
        if len(ends) == 0:
            return self.largest

        def best(places: range) -> int:
            return min(places, key=lambda place: divergence(self.counts, int(ends[place]), levels))

        coarse = range(0, len(ends), max(1, len(ends) // 64))
        rough = best(coarse)
        found = best(range(max(0, rough - coarse.step), min(len(ends), rough + coarse.step + 1)))
        return min(int(ends[found]) * self.width, self.largest)

    def limit(self, method: str, *, percent: float, levels: int) -> float:
        """The upper end of the range by one of :data:`METHODS`; 0 where nothing positive was seen."""
        if self.largest == 0.0:
            return 0.0
        if method == "minmax":
            return self.largest
        return self.percentile(percent) if method == "percentile" else self.entropy(levels)


def divergence(counts: Counts, end: int, levels: int) -> float:
    """Kullback-Leibler divergence of a distribution from itself cut off at ``end`` and quantised.

    After Migacz, "8-bit Inference with TensorRT" (GTC 2017): what lies beyond ``end`` counts into the
    last bin of the reference; the quantised distribution spreads each level's counts evenly over those
    of its bins that are not empty.

    Args:
        counts: a histogram.
        end: how many of its bins the range covers; at least ``levels``.
        levels: steps of the integer type above zero.

    Returns:
        The divergence in nats; infinite where the cut empties a bin that had counts.
    """
    inside = counts[:end].astype(np.float64)
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    level = np.minimum(np.arange(end) * levels // end, levels - 1)
    filled = inside > 0
    share = np.bincount(level, inside, levels) / np.maximum(np.bincount(level, filled, levels), 1)
    quantised = np.where(filled, share[level], 0.0)
    present = reference > 0
    if not filled[present].all():
        return float("inf")
    p = reference[present] / reference.sum()
    q = quantised[present] / quantised.sum()
    return float(np.sum(p * np.log(p / q)))
