"""Labels by cell are the labels of every pixel's comparison, whatever the scores."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.export.graph.cells import label_by_cell
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.testing import onnxruntime_session, openvino_model

DENSE = """
<ir_version: 9, opset_import: ["" : 20]>
dense (float[n, c, h, w] scores) => (uint8[n, y, x] labels)
<
  float[4] scales = {1.0, 1.0, 8.0, 8.0},
  int64[1] axis1 = {1}, int64[1] axis2 = {2}, int64[1] from3 = {3}, int64[1] end = {2147483647}
>
{
  [r] fine = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (scores, , scales)
  [a] best = ArgMax <axis = 1, keepdims = 0> (fine)
  [s1] rows = Slice (best, from3, end, axis1)
  [s2] kept = Slice (rows, from3, end, axis2)
  [c1] number = Cast <to = 1> (kept)
  [c2] labels = Cast <to = 2> (number)
}
"""
"""The end of a deploy graph, with a crop of three pixels."""


@cache
def ends() -> tuple[Any, Any]:
    """Sessions on the end of a deploy graph as it is, and by cell."""
    dense = onnx.parser.parse_model(DENSE)
    by_cell = copy.deepcopy(dense)
    assert label_by_cell(by_cell)
    return onnxruntime_session(dense), onnxruntime_session(by_cell)


def answers(scores: np.ndarray) -> list[np.ndarray]:
    return [each.run(["labels"], {"scores": scores})[0] for each in ends()]


sides = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(2, 255), sides, sides, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_whole_numbers_give_the_same_labels_ties_included(
    batch: int, classes: int, height: int, width: int, levels: int, seed: int
) -> None:
    # Few levels make ties at most corners; their weighted means are exact in float32.
    scores = np.random.default_rng(seed).integers(0, levels, (batch, classes, height, width))
    dense, by_cell = answers(scores.astype(np.float32))
    np.testing.assert_array_equal(by_cell, dense)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2), st.integers(2, 21), sides, sides, st.integers(0, 2**32 - 1))
def test_any_numbers_give_a_best_class_of_each_pixel(
    batch: int, classes: int, height: int, width: int, seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(size=(batch, classes, height, width)).astype(np.float32)
    dense, by_cell = answers(scores)
    assert (by_cell == dense).mean() > 0.999  # the rest: two classes that differ in the last digit


def test_a_frame_of_one_class_leaves_nothing_to_compare() -> None:
    scores = np.zeros((2, 11, 5, 7), np.float32)
    scores[:, 4] = 1
    dense, by_cell = answers(scores)
    assert (by_cell == 4).all() and by_cell.shape == dense.shape == (2, 37, 53)


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-atonce", "fcn8s-same", "fcn8s-lite"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 17), (64, 96)])
def test_whole_models_answer_the_same(exported, variant: str, size: tuple[int, int]) -> None:
    dense, _ = read_model(exported(variant)[0])
    by_cell = copy.deepcopy(dense)
    assert label_by_cell(by_cell)
    used = {name for node in by_cell.graph.node for name in node.input}
    assert {tensor.name for tensor in by_cell.graph.initializer} <= used  # or ONNX Runtime warns
    frames = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    expected, got = (onnxruntime_session(m).run(["labels"], {"image": frames})[0] for m in (dense, by_cell))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_openvino_answers_the_same(exported, variant: str) -> None:
    pytest.importorskip("openvino")
    dense, _ = read_model(exported(variant)[0])
    by_cell = copy.deepcopy(dense)
    assert label_by_cell(by_cell)
    read, reference = openvino_model(by_cell), onnxruntime_session(dense)
    noise = np.random.default_rng(2).integers(0, 256, (2, 47, 65, 3), dtype=np.uint8)
    for frames in (noise, np.zeros_like(noise), noise[:1, :1, :1]):
        expected = reference.run(["labels"], {"image": frames})[0]
        assert (read(frames)[0] == expected).mean() > 0.999


def test_what_needs_every_class_at_every_pixel_is_left_alone(exported) -> None:
    more = exported("fcn8s-lite", outputs=("labels", "confidence", "logits"))
    for path in (more[0], exported("fcn8s", True)[0]):
        model, _ = read_model(path)
        before = model.SerializeToString(deterministic=True)
        assert not label_by_cell(model)
        assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("half_pixel", "align_corners"),
        ('"linear"', '"nearest"'),
        ("8.0, 8.0", "4.0, 4.0"),
    ],
)
def test_another_resize_is_left_alone(old: str, new: str) -> None:
    assert not label_by_cell(onnx.parser.parse_model(DENSE.replace(old, new)))
