"""The permutation of the classes that explains an original, from labels or from logits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.answers.mistakes.class_order import assign, class_order, reordered
from fcn_deploy.answers.running import Answered


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_assign_is_as_good_as_the_best_of_all_permutations(n: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    likeness = rng.integers(0, 3, (n, n)).astype(float) if ties else rng.normal(size=(n, n))
    found = assign(likeness)
    assert sorted(found) == list(range(n))
    best = max(likeness[range(n), list(order)].sum() for order in itertools.permutations(range(n)))
    assert likeness[np.arange(n), found].sum() == pytest.approx(best)


@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_a_planted_order_is_found_in_logits(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(classes, 9, 11)).astype(np.float32)
    order = rng.permutation(classes)
    ours = original[order]  # our class k is the original's order[k]
    answered = Answered(ours.argmax(0).astype(np.uint8), ours)
    labels = original.argmax(0).astype(np.uint8)
    assert (class_order([labels], [original], [answered], classes) == order).all()
    restored = reordered(answered, order)
    assert (restored.labels == labels).all() and (restored.logits == original).all()


def test_classes_that_never_occur_keep_their_number_where_only_labels_are_known() -> None:
    labels = np.array([[0, 1, 1, 4]], np.uint8)
    ours = Answered(np.array([[1, 0, 0, 4]], np.uint8), None)
    assert class_order([labels], [None], [ours], 6).tolist() == [1, 0, 2, 3, 4, 5]


def test_pixels_of_255_say_nothing() -> None:
    labels = np.array([[255, 255, 255, 1]], np.uint8)
    ours = Answered(np.array([[0, 0, 0, 1]], np.uint8), None)
    assert class_order([labels], [None], [ours], 2).tolist() == [0, 1]
