"""An artefact and its reference: what is compared, at which sizes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
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


FIXED = ModelSpec(("a", "b"), Architecture("onnx"), fixed_shape=(1, 20, 30))


def results_of(labels: np.ndarray, logits: np.ndarray | None):
    return lambda images: (labels, logits)


def reference(answer, **more) -> ParityReference:
    return ParityReference(lambda images: answer, "a plain network", "plain", **more)


def check(labels: np.ndarray, logits: np.ndarray | None, against: ParityReference) -> dict[str, Any]:
    return check_results(results_of(labels, logits), against, FIXED, against="this test")


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
        check_results(zeros, against, FIXED.replace(fixed_shape=(1, 21, 30)), against="this test")


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


# Networks whose own float32 is far from float64

SPEC = ModelSpec(("a", "b"), Architecture("any"), max_height=40, max_width=40)


def exact_logits(frames: np.ndarray) -> np.ndarray:
    """float64 ``[N, 2, H, W]``: 1 for the class of a pixel, a half for the other."""
    bright = frames[..., 0] > 127
    return np.stack([np.where(bright, 1.0, 0.5), np.where(bright, 0.5, 1.0)], 1)


def off_by(error: float, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Logits in float32 that are everywhere wrong by ``error`` or its opposite."""

    def logits(frames: np.ndarray) -> np.ndarray:
        exact = exact_logits(frames)
        signs = np.random.default_rng(seed).integers(0, 2, exact.shape) * 2 - 1
        return (exact + error * signs).astype(np.float32)

    return logits


def judged(artefact: float, own: float, *, exact: Any = exact_logits) -> dict[str, Any]:
    """Parity of an artefact with such an error with a reference with such an error."""
    logits = off_by(artefact, seed=1)

    def results(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = logits(frames)
        return found.argmax(1).astype(np.uint8), found

    reference = ParityReference(off_by(own, seed=2), "the plain network", "any", exact)
    return check_results(results, reference, SPEC, against="a test")


@pytest.mark.parametrize("artefact", [1e-3, 2e-3, 3.9e-3])
def test_where_float32_is_1e_3_from_float64_an_artefact_may_be_about_as_far(artefact: float) -> None:
    evidence = judged(artefact, 1e-3)
    assert 1e-4 < evidence["max_relative_error"] < 6e-3
    record = evidence["sizes"][0]
    assert record["from_float64"] == pytest.approx(artefact, rel=1e-2)
    assert record["reference_from_float64"] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("artefact", "own", "told"),
    [
        (1e-3, 1e-7, r"differ from those of any by 0\.001.*it is 0\.001 from the network in float64"),
        (2e-4, 1e-6, "install the versions in constraints.txt"),
        (5e-3, 1e-3, r"it is 0\.005 from the network in float64, and the network in fp32 is 0\.001 from it"),
        (0.3, 0.2, r"in fp32 the network itself is 0\.2 from its float64 results; check its weights"),
        (np.nan, 1e-3, "differ from those of any by nan"),
        (1e-3, np.nan, "check its weights"),
    ],
)
def test_a_graph_that_is_wrong_is_refused(artefact: float, own: float, told: str) -> None:
    with pytest.raises(ParityError, match=told):
        judged(artefact, own)


def test_without_float64_only_the_tolerance_counts() -> None:
    with pytest.raises(ParityError, match=r"by 0\.002 .*nothing was written: install the versions"):
        judged(1e-3, 1e-3, exact=lambda frames: None)
    with pytest.raises(ParityError, match="install the versions"):
        judged(1e-3, 1e-3, exact=None)


def test_float64_is_not_asked_where_float32_agrees() -> None:
    def never(frames: np.ndarray) -> np.ndarray:
        raise AssertionError("asked")

    record = judged(1e-6, 1e-6, exact=never)["sizes"][0]
    assert "from_float64" not in record


def test_labels_that_differ_where_logits_agree_are_refused() -> None:
    def results(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = exact_logits(frames).astype(np.float32)
        return 1 - found.argmax(1).astype(np.uint8), found

    reference = ParityReference(exact_logits, "the plain network", "any")
    with pytest.raises(
        ParityError, match="labels differ from those of any where the two best classes are not"
    ):
        check_results(results, reference, SPEC, against="a test")


def test_logits_that_are_all_zero() -> None:
    def zero(frames: np.ndarray) -> np.ndarray:
        return np.zeros_like(exact_logits(frames))

    def results(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(frames.shape[:3], np.uint8), zero(frames).astype(np.float32) + np.float32(1e-3)

    with pytest.raises(ParityError, match="differ from those of any"):
        check_results(results, ParityReference(zero, "zeros", "any", zero), SPEC, against="a test")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [(1, 1, 1), (1, 31, 33)]),
        ({"min_height": 16, "min_width": 16}, [(1, 16, 16), (1, 31, 33)]),
        ({"min_height": 16, "min_width": 20}, [(1, 16, 20), (1, 31, 33)]),
        ({"fixed_shape": (2, None, None)}, [(2, 1, 1), (2, 31, 33)]),
        ({"fixed_shape": (None, 24, 40)}, [(1, 24, 40), (3, 24, 40)]),
        ({"max_height": 5, "max_width": 5}, [(1, 1, 1)]),
    ],
    ids=str,
)
def test_sizes_are_those_that_the_network_takes(fields: dict[str, Any], expected: list[Any]) -> None:
    assert [frames.shape[:3] for frames in parity_batches(SPEC.replace(**fields))] == expected
