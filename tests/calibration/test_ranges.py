"""Ranges from a stream are those of all its values at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.calibration.ranges import BINS, METHODS, Histogram, divergence
from fcn_deploy.errors import CalibrationError


def counted(*chunks: np.ndarray) -> Histogram:
    histogram = Histogram("conv1_2")
    for chunk in chunks:
        histogram.add(chunk.astype(np.float32))
    return histogram


def activations(size: int = 200_000, seed: int = 0) -> np.ndarray:
    """What leaves a ReLU: half zeros, a heavy tail."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_t(4, size), 0).astype(np.float32)


values = st.lists(st.floats(0, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=60)


@given(st.lists(values, min_size=1, max_size=6))
@settings(max_examples=200)
def test_every_value_is_counted_however_the_stream_is_cut(chunks: list[list[float]]) -> None:
    arrays = [np.array(chunk, np.float32) for chunk in chunks]
    everything = np.concatenate(arrays)
    found = counted(*arrays)
    assert found.largest == everything.max()
    assert found.zeros + found.counts.sum() == everything.size
    assert found.zeros == np.count_nonzero(everything == 0)
    assert found.width * BINS >= found.largest * (1 - 1e-6)


@given(st.lists(values, min_size=1, max_size=6), st.floats(51, 100))
@settings(max_examples=200)
def test_the_percentile_is_numpy_s_to_a_bin(chunks: list[list[float]], percent: float) -> None:
    everything = np.concatenate([np.array(chunk, np.float32) for chunk in chunks])
    found = counted(*(np.array(chunk, np.float32) for chunk in chunks))
    ordered = np.sort(everything)
    wanted = ordered[min(len(ordered) - 1, max(0, math.ceil(percent / 100 * len(ordered)) - 1))]
    if found.largest:
        assert abs(found.percentile(percent) - wanted) <= 2 * found.width or wanted == 0


def test_doubling_the_bins_keeps_the_shape() -> None:
    data = activations()
    at_once = counted(data)
    streamed = counted(*np.array_split(np.sort(data), 50))  # the worst order: always a larger value
    assert streamed.counts.sum() == at_once.counts.sum()
    for percent in (90, 99, 99.9):
        assert streamed.percentile(percent) == pytest.approx(at_once.percentile(percent), abs=streamed.width)


def test_memory_does_not_grow_with_the_stream() -> None:
    few, many = counted(activations(1000)), counted(*(activations(1000, s) * s for s in range(1, 200)))
    assert few.counts.nbytes == many.counts.nbytes


def test_three_methods_are_three_ranges() -> None:
    found = counted(activations())
    limits = {
        m: found.limits(m, percent=99.9, levels=128, symmetric=True)[1]
        for m in ("minmax", "percentile", "entropy")
    }
    assert limits["percentile"] < limits["minmax"] and limits["entropy"] < limits["minmax"]
    assert abs(limits["percentile"] - limits["entropy"]) > 0.02 * limits["minmax"]


def test_fewer_levels_make_entropy_clip_more() -> None:
    found = counted(activations())
    assert found.entropy(32) < found.entropy(256) < found.largest


def test_one_outlier_does_not_decide_the_range() -> None:
    usual = activations(50_000)
    usual = usual[usual < 8]
    found = counted(usual, np.array([100.0]))
    assert found.entropy(128) < 15 < found.largest


def test_entropy_finds_the_least_divergence_of_all_limits() -> None:
    found = counted(activations(50_000))
    used = int(np.flatnonzero(found.counts)[-1]) + 1
    every = {end: divergence(found.counts, end, 128) for end in range(128, used + 1)}
    chosen = round(found.entropy(128) / found.width)
    assert every[min(chosen, used)] <= min(every.values()) * 1.02


def test_divergence_is_that_of_the_slow_formula() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 50, 64)
    counts[rng.random(64) < 0.3] = 0
    counts[40] = 7
    end, levels = 41, 8
    reference = [float(c) for c in counts[:end]]
    reference[-1] += float(counts[end:].sum())
    groups: list[list[int]] = [[] for _ in range(levels)]
    for i in range(end):
        groups[min(i * levels // end, levels - 1)].append(i)
    quantised = [0.0] * end
    for group in groups:
        filled = [i for i in group if counts[i]]
        for i in filled:
            quantised[i] = sum(float(counts[j]) for j in group) / len(filled)
    total_p, total_q = sum(reference), sum(quantised)
    slow = sum(
        p / total_p * math.log((p / total_p) / (q / total_q))
        for p, q in zip(reference, quantised, strict=True)
        if p
    )
    assert divergence(counts, end, levels) == pytest.approx(slow)


def test_onnx_runtime_s_entropy_agrees_where_it_is_given_enough_bins() -> None:
    """Its symmetric histogram has both signs, so the positive half is what ours counts."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    data = activations(400_000, seed=3)
    data = data[data > 0]
    ours = counted(data).entropy(128)
    collector = HistogramCollector("entropy", True, 8192, 255, 99.99, "same")
    collector.collect({"x": [data]})
    theirs = float(collector.compute_entropy()["x"][1])
    assert ours == pytest.approx(theirs, rel=0.25)
    assert ours < 0.9 * data.max() and theirs < 0.9 * data.max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_range_can_hold_is_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="conv1_2 holds NaN or infinity"):
        counted(np.array([1.0, bad]))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero_has_no_range(method: str, symmetric: bool) -> None:
    assert counted(np.zeros(10)).limits(method, percent=99, levels=128, symmetric=symmetric) == (0, 0)


signed = st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=60)


@given(st.lists(signed, min_size=1, max_size=6))
@settings(max_examples=200)
def test_values_of_both_signs_are_counted_however_the_stream_is_cut(chunks: list[list[float]]) -> None:
    everything = np.concatenate([np.array(chunk, np.float32) for chunk in chunks])
    found = counted(*(np.array(chunk, np.float32) for chunk in chunks))
    assert (found.lowest, found.largest) == (min(everything.min(), 0), max(everything.max(), 0))
    assert found.zeros + found.counts.sum() + found.below.sum() == everything.size
    assert found.zeros == np.count_nonzero(everything == 0)
    # What is less than a rounding error of the widest bin may fall on the other side of zero.
    assert abs(int(found.below.sum()) - np.count_nonzero(everything < 0)) <= np.count_nonzero(
        np.abs(everything) < 1e-3 * found.width
    )


@given(st.lists(signed, min_size=1, max_size=6), st.floats(51, 100))
@settings(max_examples=200)
def test_both_ends_of_the_percentile_are_numpy_s_to_a_bin(chunks: list[list[float]], percent: float) -> None:
    everything = np.concatenate([np.array(chunk, np.float32) for chunk in chunks])
    found = counted(*(np.array(chunk, np.float32) for chunk in chunks))
    low, high = found.limits("percentile", percent=percent, levels=0, symmetric=False)
    assert found.lowest <= low <= 0 <= high <= found.largest
    for limit, values_ in ((high, everything), (-low, -everything)):
        ordered = np.sort(values_)
        wanted = ordered[min(len(ordered) - 1, max(0, math.ceil(percent / 100 * len(ordered)) - 1))]
        assert abs(limit - max(wanted, 0)) <= 2 * found.width


def test_a_mirrored_stream_has_the_mirrored_range() -> None:
    data = activations() - np.float32(0.3)
    for method in METHODS:
        for symmetric in (True, False):
            asked = {"percent": 99.9, "levels": 128, "symmetric": symmetric}
            low, high = counted(data).limits(method, **asked)
            other_low, other_high = counted(-data).limits(method, **asked)
            assert (-other_high, -other_low) == pytest.approx((low, high), rel=0.02)


def test_entropy_cuts_both_tails_of_a_signed_activation_and_keeps_a_short_one() -> None:
    rng = np.random.default_rng(2)
    tails = rng.standard_t(3, 200_000).astype(np.float32)
    low, high = counted(tails).limits("entropy", percent=99, levels=256, symmetric=False)
    assert -0.7 * np.abs(tails).max() < low < -2 and high == pytest.approx(-low, rel=0.05)
    swish = tails * np.clip(tails / 6 + 0.5, 0, 1)  # HardSwish: nothing below -0.375
    low, high = counted(swish).limits("entropy", percent=99, levels=256, symmetric=False)
    assert low == swish.min() == pytest.approx(-0.375, abs=1e-3) and 2 < high < 0.7 * swish.max()


def test_a_symmetric_range_sees_the_magnitudes_of_both_signs() -> None:
    data = activations()
    one_sided = counted(data).limits("entropy", percent=99, levels=128, symmetric=True)
    mirrored = counted(data, -data).limits("entropy", percent=99, levels=128, symmetric=True)
    assert mirrored == (-one_sided[1], one_sided[1])
