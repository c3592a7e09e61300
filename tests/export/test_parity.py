from __future__ import annotations

import numpy as np

from fcn_deploy.export.parity import PARITY_SIZES, compare, parity_frames
from fcn_deploy.spec import Architecture, ModelSpec


def logits(*rows: list[float]) -> np.ndarray:
    """Float32 ``[1, classes, 1, pixels]`` from one list a pixel."""
    return np.array(rows, np.float32).T[None, :, None, :]


def test_equal_answers_have_no_error():
    reference = logits([1, 0], [0, 3])
    record = compare(reference.argmax(1).astype(np.uint8), reference, reference)
    assert record["relative_error"] == 0
    assert record["agreement"] == 1
    assert record["differences_beyond_ties"] == 0


def test_a_difference_that_a_tie_explains_is_told_from_one_it_does_not():
    reference = logits([1.0, 1.0 - 1e-6], [0.0, 3.0])
    other = reference + np.float32(1e-5)
    tie = compare(np.array([[[1, 1]]], np.uint8), other, reference)
    assert tie["agreement"] == 0.5
    assert tie["differences_beyond_ties"] == 0
    wrong = compare(np.array([[[0, 0]]], np.uint8), other, reference)
    assert wrong["differences_beyond_ties"] == 1


def test_not_a_number_is_an_error_that_no_tolerance_accepts():
    reference = logits([1, 0])
    record = compare(np.array([[[0]]], np.uint8), reference * np.nan, reference)
    assert not record["relative_error"] <= 1e9


def test_sizes_are_tiny_odd_and_large_and_one_is_a_batch():
    assert (1, 1, 1) in PARITY_SIZES
    assert any(batch > 1 for batch, _, _ in PARITY_SIZES)
    assert any(height > width for _, height, width in PARITY_SIZES)
    assert len(PARITY_SIZES) >= 8


def test_frames_are_the_same_each_time_and_of_the_size_asked_for():
    spec = ModelSpec(("a", "b"), Architecture("fcn8s-lite"))
    first, again = (parity_frames(2, 31, 33, spec) for _ in range(2))
    assert first.shape == (2, 31, 33, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
