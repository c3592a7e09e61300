from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fcn_deploy.errors import ParityError
from fcn_deploy.export.parity import (
    PARITY_SIZES,
    Expected,
    ParityReference,
    SizeRefused,
    check_results,
    compare,
    parity_batches,
    parity_frames,
)
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


SPEC = ModelSpec(("a", "b"), Architecture("onnx"), fixed_shape=(1, 20, 30))


def results_of(labels: np.ndarray, logits: np.ndarray | None):
    return lambda images: (labels, logits)


def reference(answer, **more) -> ParityReference:
    return ParityReference(lambda images: answer, "a plain network", "plain", **more)


def check(labels: np.ndarray, logits: np.ndarray | None, against: ParityReference) -> dict[str, Any]:
    return check_results(results_of(labels, logits), against, SPEC, against="this test")


def test_labels_alone_are_compared_where_there_are_no_logits():
    truth = np.random.default_rng(0).integers(0, 2, (1, 20, 30), dtype=np.uint8)
    found = check(truth, None, reference(Expected(None, truth)))
    assert (found["max_relative_error"], found["differences_beyond_ties"]) == (None, None)
    assert found["min_agreement"] == 1
    wrong = truth.copy()
    wrong[0, 0, :3] ^= 1
    with pytest.raises(ParityError, match=r"only 99\.5000% of the labels equal those of plain"):
        check(wrong, None, reference(Expected(None, truth)))


def test_a_size_that_the_reference_refuses_is_recorded_and_a_refusal_of_all_is_an_error():
    spec = ModelSpec(("a", "b"), Architecture("onnx"))

    def odd_fails(images: np.ndarray) -> Expected:
        if images.shape[1] % 2:
            raise SizeRefused("odd")
        return Expected(None, np.zeros(images.shape[:3], np.uint8))

    def zeros(images: np.ndarray):
        return np.zeros(images.shape[:3], np.uint8), None

    against = ParityReference(odd_fails, "a plain network", "plain")
    found = check_results(zeros, against, spec, against="this test")
    assert {"batch": 1, "height": 31, "width": 33, "reason": "odd"} in found["refused"]
    assert len(found["sizes"]) + len(found["refused"]) == len(PARITY_SIZES)
    kept = spec.with_evidence("parity", found)
    sizes = [(r["batch"], r["height"], r["width"]) for r in found["sizes"]]
    assert [frames.shape[:3] for frames in parity_batches(kept)] == sizes
    with pytest.raises(ParityError, match="takes none of the sizes to compare at: odd"):
        check_results(zeros, against, SPEC.replace(fixed_shape=(1, 21, 30)), against="this test")


@pytest.mark.parametrize(("moves", "accepted"), [(1e-4, True), (4e-5, False), (0.06, False)])
def test_a_network_that_makes_much_of_rounding_is_judged_by_its_own_logits(moves, accepted):
    scores = np.random.default_rng(0).normal(size=(1, 2, 20, 30))
    largest = np.abs(scores).max()
    artefact = scores + 3e-4 * largest
    against = reference(scores, neighbours=lambda images: iter([scores, scores - moves * largest]))
    labels = scores.argmax(1).astype(np.uint8)
    if accepted:
        (record,) = check(labels, artefact, against)["sizes"]
        assert record["reference_moves"] == pytest.approx(moves)
        return
    with pytest.raises(ParityError, match="the network's own logits move by"):
        check(labels, artefact, against)
