"""What a caller may get wrong, and what a runtime promises whatever its backend."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcn_deploy.errors import InferenceError, SourceError
from fcn_deploy.runtimes.base import (
    Runtime,
    Segmentation,
    check_frames,
    cuda_index,
    usable_cores,
)
from fcn_deploy.spec import Architecture, ModelSpec
from fcn_deploy.testing import FakeRuntime

SPEC = ModelSpec(classes=("a", "b"), architecture=Architecture("fcn8s"), max_height=40, max_width=50)

good_shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 50), st.just(3))


@given(shape=good_shapes)
def test_frames_of_any_size_within_the_limit_pass_uncopied(shape: tuple[int, ...]) -> None:
    frames = np.zeros(shape, np.uint8)
    assert np.shares_memory(check_frames(frames, SPEC), frames)


@given(
    frames=hnp.arrays(np.uint8, good_shapes),
    turn=st.sampled_from(["channels", "rows", "columns", "every second row", "fortran"]),
)
def test_frames_that_are_not_contiguous_keep_their_pixels(frames: np.ndarray, turn: str) -> None:
    view = {
        "channels": frames[..., ::-1],
        "rows": frames[:, ::-1],
        "columns": frames[:, :, ::-1],
        "every second row": frames[:, ::2],
        "fortran": np.asfortranarray(frames),
    }[turn]
    checked = check_frames(view, SPEC)
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, view)


@given(shape=hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=5))
def test_every_other_shape_is_refused_and_named(shape: tuple[int, ...]) -> None:
    right = len(shape) == 4 and shape[-1] == 3 and min(shape) > 0
    frames = np.zeros(shape, np.uint8)
    if right:
        assert check_frames(frames, SPEC).shape == shape
    else:
        with pytest.raises(SourceError) as caught:
            check_frames(frames, SPEC)
        assert str(shape) in str(caught.value)


@given(dtype=st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes()).filter(lambda d: d != np.uint8))
def test_every_other_dtype_is_refused_and_named(dtype: np.dtype) -> None:
    with pytest.raises(SourceError) as caught:
        check_frames(np.zeros((1, 2, 2, 3), dtype), SPEC)
    assert str(dtype) in str(caught.value)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (np.zeros((1, 8, 8, 4), np.uint8), r"drop the fourth channel: frame\[\.\.\., :3\]"),
        (np.zeros((8, 8, 4), np.uint8), "drop the fourth channel"),
        (np.zeros((8, 8), np.uint8), "grayscale frame needs three equal channels"),
        (np.zeros((8, 8, 1), np.uint8), "grayscale frame needs three equal channels"),
        (np.zeros((8, 8, 3), np.uint8), r"add a batch axis: frame\[None\]"),
        (np.zeros((1, 3, 8, 8), np.uint8), "channels come last"),
        (np.zeros((3, 8, 8), np.uint8), "channels come last"),
        (np.zeros((1, 8, 8, 3), np.float32), "0..255 bytes, normalising is part of the model"),
        (np.zeros((1, 0, 8, 3), np.uint8), "must not be empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "must not be empty"),
        (np.zeros((1, 41, 50, 3), np.uint8), "41x50 is larger than this model's limit of 40x50"),
        (np.zeros((1, 40, 51, 3), np.uint8), "40x51 is larger than this model's limit of 40x50"),
        ([[[0, 0, 0]]], "must be a numpy array, not list"),
        (None, "must be a numpy array, not NoneType"),
    ],
)
def test_the_usual_mistakes_are_told_with_a_remedy(frames: object, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        check_frames(frames, SPEC)


@pytest.mark.parametrize("remedy", [lambda f: np.moveaxis(f, -3, -1), lambda f: f.transpose(1, 2, 0)])
def test_the_remedy_for_channels_first_is_right(remedy) -> None:
    first = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert check_frames(remedy(first)[None], SPEC)[0, 1, 3].tolist() == first[:, 1, 3].tolist()


@pytest.mark.parametrize(
    "answer",
    [
        lambda frames: np.zeros((1, 1, 1), np.uint8),
        lambda frames: np.zeros(frames.shape[:3], np.int64),
        lambda frames: np.zeros(frames.shape, np.uint8),
    ],
)
def test_an_answer_of_another_size_or_type_is_an_error(answer) -> None:
    with (
        FakeRuntime(answer, SPEC) as runtime,
        pytest.raises(InferenceError, match=r"expected uint8 \(2, 5, 4\)"),
    ):
        runtime.infer(np.zeros((2, 5, 4, 3), np.uint8))


def test_whatever_a_backend_raises_reaches_the_caller_as_one_error() -> None:
    def fail(frames: np.ndarray) -> np.ndarray:
        raise MemoryError("first line\nsecond line")

    with FakeRuntime(fail, SPEC) as runtime, pytest.raises(InferenceError) as caught:
        runtime.infer(np.zeros((1, 2, 2, 3), np.uint8))
    assert str(caught.value) == "fake failed on frames of shape (1, 2, 2, 3): first line"
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_closed_runtime_says_so() -> None:
    runtime = FakeRuntime(1, SPEC)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.infer(np.zeros((1, 2, 2, 3), np.uint8))


@pytest.fixture
def batch() -> Segmentation:
    shape = (3, 4, 5)
    return Segmentation(
        labels=np.arange(60, dtype=np.uint8).reshape(shape),
        spec=SPEC,
        confidence=np.random.default_rng(0).random(shape, np.float32),
        logits=np.zeros((3, 2, 4, 5), np.float32),
    )


@pytest.mark.parametrize("index", [0, 2, -1, -3])
def test_one_frame_of_a_batch_keeps_a_batch_axis(batch: Segmentation, index: int) -> None:
    one = batch[index]
    assert len(one) == 1
    assert one.labels.shape == (1, 4, 5)
    assert one.logits is not None and one.logits.shape == (1, 2, 4, 5)
    np.testing.assert_array_equal(one.labels[0], batch.labels[index])
    np.testing.assert_array_equal(one.confidence[0], batch.confidence[index])


def test_a_batch_can_be_walked_through(batch: Segmentation) -> None:
    assert [int(one.labels[0, 0, 0]) for one in batch] == [0, 20, 40]
    with pytest.raises(IndexError, match="frame 3 of a batch of 3"):
        batch[3]


@pytest.mark.parametrize(
    ("device", "index"), [(None, 0), ("cpu", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:11", 11)]
)
def test_the_number_of_a_gpu(device: str | None, index: int) -> None:
    assert cuda_index(device) == index


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_cores_that_the_process_may_not_use_do_not_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


# Frames that a network does not take


@pytest.mark.parametrize(
    ("fields", "shape", "told"),
    [
        (
            {"min_height": 8, "min_width": 16},
            (1, 7, 16, 3),
            "7x16 is smaller than 8x16, the smallest that this network takes; scale it up",
        ),
        ({"min_height": 8, "min_width": 16}, (1, 8, 15, 3), "8x15 is smaller than 8x16"),
        ({"fixed_shape": (2, None, None)}, (1, 9, 9, 3), "takes 2 frames at a time, found 1"),
        (
            {"fixed_shape": (None, 24, 32)},
            (1, 24, 31, 3),
            "takes frames of 24x32 only, found 24x31; resize them, or export the network with dynamic axes",
        ),
        ({"fixed_shape": (None, 24, None)}, (1, 25, 31, 3), "frames of 24xany width only, found 25x31"),
        ({"fixed_shape": (None, None, 32)}, (1, 25, 31, 3), "frames of any heightx32 only"),
    ],
)
def test_sizes_that_this_network_does_not_take(fields: dict, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(SourceError, match=told):
        check_frames(np.zeros(shape, np.uint8), SPEC.replace(**fields))


@given(shape=good_shapes)
def test_a_fixed_shape_is_the_only_one_that_passes(shape: tuple[int, ...]) -> None:
    spec = SPEC.replace(fixed_shape=(2, 24, 32))
    frames = np.zeros(shape, np.uint8)
    if shape == (2, 24, 32, 3):
        assert check_frames(frames, spec) is frames
    else:
        with pytest.raises(SourceError, match="this model takes"):
            check_frames(frames, spec)


@given(height=st.integers(1, 40), width=st.integers(1, 50))
def test_frames_from_the_smallest_on_pass(height: int, width: int) -> None:
    spec = SPEC.replace(min_height=8, min_width=16)
    frames = np.zeros((1, height, width, 3), np.uint8)
    if height >= 8 and width >= 16:
        assert check_frames(frames, spec).shape == frames.shape
    else:
        with pytest.raises(SourceError, match="smaller than 8x16"):
            check_frames(frames, spec)


def test_the_largest_batch_is_the_fixed_one() -> None:
    class Plain(Runtime):
        backend = "plain"

        def _infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"labels": images[..., 0]}

        def _release(self) -> None:
            pass

    assert Plain(SPEC, "cpu").max_batch is None
    assert Plain(SPEC.replace(fixed_shape=(4, None, None)), "cpu").max_batch == 4
