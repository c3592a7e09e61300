"""The paper's metrics, held against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcn_deploy.errors import SourceError
from fcn_deploy.metrics import ConfusionMatrix, label_agreement

CLASSES = 5

shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=12)


@st.composite
def labelled(draw, truth_values=range(CLASSES)):
    """Truth and answer of one shape; by chance, some classes are absent from either."""
    shape = draw(shapes)
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from(list(truth_values))))
    answer = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    return truth, answer


def matrix_of(truth, answer, ignore_label=255):
    matrix = ConfusionMatrix(CLASSES, ignore_label)
    matrix.update(np.asarray(truth, np.uint8), np.asarray(answer, np.uint8))
    return matrix


@given(labelled())
def test_everything_equals_scikit_learn(pair):
    scores = pytest.importorskip("sklearn.metrics")
    truth, answer = (labels.ravel() for labels in pair)
    matrix = matrix_of(*pair)

    every = list(range(CLASSES))
    assert (matrix.counts == scores.confusion_matrix(truth, answer, labels=every)).all()
    assert matrix.pixel_accuracy == pytest.approx(scores.accuracy_score(truth, answer))
    in_truth = np.unique(truth)
    recall = scores.recall_score(truth, answer, labels=in_truth, average="macro", zero_division=0)
    assert matrix.mean_accuracy == pytest.approx(recall)
    in_either = np.union1d(truth, answer)
    by_class = scores.jaccard_score(truth, answer, labels=in_either, average=None)
    np.testing.assert_allclose(matrix.iu_by_class[in_either], by_class)
    assert np.isnan(np.delete(matrix.iu_by_class, in_either)).all()
    assert matrix.mean_iu == pytest.approx(by_class.mean())
    weighted = scores.jaccard_score(truth, answer, labels=in_truth, average="weighted", zero_division=0)
    assert matrix.fw_iu == pytest.approx(weighted)


@given(labelled(truth_values=[0, 1, 2, 3, 4, 11, 255]))
def test_the_ignored_label_and_255_are_as_if_cut_out(pair):
    truth, answer = pair
    scored = truth < CLASSES
    assert (
        matrix_of(truth, answer, ignore_label=11).counts == matrix_of(truth[scored], answer[scored]).counts
    ).all()


def test_a_class_can_be_the_ignored_label():
    matrix = matrix_of([0, 0, 1, 1], [1, 0, 1, 0], ignore_label=0)
    assert matrix.counts.sum() == 2
    assert matrix.pixel_accuracy == 0.5


def test_what_is_answered_on_ignored_pixels_does_not_matter():
    assert matrix_of([255, 0], [200, 0]).pixel_accuracy == 1.0


@given(st.lists(labelled(), min_size=1, max_size=4), st.randoms())
def test_frames_add_up_in_any_order(pairs, random):
    matrix = ConfusionMatrix(CLASSES)
    for pair in random.sample(pairs, len(pairs)):
        matrix.update(*pair)
    whole = matrix_of(
        *(np.concatenate([part.ravel() for part in parts]) for parts in zip(*pairs, strict=True))
    )
    assert (matrix.counts == whole.counts).all()


def test_the_example_of_the_formulas():
    # 3 pixels of class 0, one of them answered 1; one pixel of class 1, right; class 2 only answered.
    matrix = matrix_of([0, 0, 0, 1, 1], [0, 0, 1, 1, 2])
    assert matrix.pixel_accuracy == pytest.approx(3 / 5)
    assert matrix.mean_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    np.testing.assert_allclose(matrix.iu_by_class, [2 / 3, 1 / 3, 0, np.nan, np.nan])
    assert matrix.mean_iu == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert matrix.fw_iu == pytest.approx((3 * 2 / 3 + 2 * 1 / 3) / 5)


def test_before_the_first_pixel_all_is_nan():
    for matrix in (ConfusionMatrix(CLASSES), matrix_of([255], [0])):
        figures = (matrix.pixel_accuracy, matrix.mean_accuracy, matrix.mean_iu, matrix.fw_iu)
        assert all(math.isnan(figure) for figure in figures)
        assert np.isnan(matrix.iu_by_class).all()


@pytest.mark.parametrize(
    ("truth", "answer", "named"),
    [
        ([0, CLASSES], [0, 0], "label 5 "),
        ([0, 254], [0, 0], "label 254 "),
        ([0, 0], [0, CLASSES], "predicted label 5 "),
        ([0, 0], [0, 255], "predicted label 255 "),
    ],
)
def test_a_class_id_out_of_range_is_refused_and_nothing_added(truth, answer, named):
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(SourceError, match=named):
        matrix.update(np.array(truth, np.uint8), np.array(answer, np.uint8))
    assert not matrix.counts.any()


def test_a_negative_class_id_is_not_counted_for_another_class():
    with pytest.raises(SourceError, match="predicted label -1 is out of range"):
        ConfusionMatrix(CLASSES).update(np.array([1, 1]), np.array([1, -1]))


def test_shapes_that_differ_are_refused_even_with_as_many_pixels():
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(SourceError, match="labels are 2x3 and the prediction is 3x2"):
        matrix.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    assert not matrix.counts.any()


@given(labelled())
def test_agreement_is_the_share_of_equal_labels(pair):
    scores = pytest.importorskip("sklearn.metrics")
    a, b = pair
    assert label_agreement(a, b) == pytest.approx(scores.accuracy_score(a.ravel(), b.ravel()))
    assert label_agreement(a, a) == 1.0


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((0, 3), (0, 3))])
def test_agreement_needs_one_shape_and_a_pixel(shapes):
    with pytest.raises(SourceError, match="one shape and a pixel"):
        label_agreement(*(np.zeros(shape, np.uint8) for shape in shapes))
