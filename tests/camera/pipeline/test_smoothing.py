"""Held labels, against the rule written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from deadline import in_time
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fcn_deploy.camera import CameraFrame, Delivery, IterableSource, Pipeline
from fcn_deploy.camera.pipeline.smoothing import LabelSmoother
from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime

Labels = np.ndarray


def held(frames: int, seen: list[int]) -> list[int]:
    """What one pixel shows: a label, once it was seen in so many frames in a row, until the next one."""
    shown = []
    for index, label in enumerate(seen):
        last = seen[max(0, index - frames + 1) : index + 1]
        if index == 0 or (len(last) == frames and set(last) == {label}):
            shown.append(label)
        else:
            shown.append(shown[-1])
    return shown


@st.composite
def clips(draw: st.DrawFn) -> tuple[int, list[Labels]]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    frame = arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255]))
    return draw(st.integers(2, 5)), draw(st.lists(frame, min_size=1, max_size=20))


@given(clips())
def test_every_pixel_follows_the_rule(clip: tuple[int, list[Labels]]) -> None:
    frames, labels = clip
    hold = LabelSmoother(frames)
    shown = np.stack([hold(each) for each in labels])
    assert shown.dtype == np.uint8
    for row, column in np.ndindex(*labels[0].shape):
        seen = [int(each[row, column]) for each in labels]
        assert shown[:, row, column].tolist() == held(frames, seen)


@pytest.mark.parametrize("frames", [2, 3, 254, 255])
def test_a_change_shows_after_so_many_frames(frames: int) -> None:
    hold = LabelSmoother(frames)
    old, new = np.zeros((2, 3), np.uint8), np.full((2, 3), 7, np.uint8)
    for _ in range(600):  # longer than a byte counts
        assert not hold(old).any()
    shown = [bool(hold(new).all()) for _ in range(frames + 300)]
    assert shown == [False] * (frames - 1) + [True] * 301


def test_flicker_never_shows() -> None:
    hold = LabelSmoother(2)
    shown = [hold(np.full((1, 1), label, np.uint8))[0, 0] for label in [4] + [5, 4] * 20 + [6, 5, 6, 5]]
    assert set(shown) == {4}


def test_alternating_labels_do_not_count_together() -> None:
    hold = LabelSmoother(3)
    seen = [0, 1, 2, 1, 2, 1, 1, 2, 2, 2]
    assert [int(hold(np.full((1, 1), label, np.uint8))[0, 0]) for label in seen] == [0] * 9 + [2]


@given(clips())
def test_only_labels_of_the_model_are_shown(clip: tuple[int, list[Labels]]) -> None:
    frames, labels = clip
    hold = LabelSmoother(frames)
    for index, each in enumerate(labels):
        given_before = np.stack(labels[: index + 1])
        assert (hold(each) == given_before).any(axis=0).all()


@given(clips(), clips())
def test_another_size_starts_again(first: tuple[int, list[Labels]], second: tuple[int, list[Labels]]) -> None:
    frames, labels = first
    wider = [np.pad(each, ((0, 1), (0, 0))) for each in second[1]]
    if wider[0].shape == labels[0].shape:
        wider = [np.pad(each, ((0, 1), (0, 0))) for each in wider]
    hold, fresh = LabelSmoother(frames), LabelSmoother(frames)
    for each in labels:
        hold(each)
    for each in wider:
        assert np.array_equal(hold(each), fresh(each))


def test_swapped_height_and_width_start_again() -> None:
    hold = LabelSmoother(2)
    hold(np.zeros((2, 3), np.uint8))
    assert hold(np.full((3, 2), 9, np.uint8)).tolist() == [[9, 9]] * 3


@given(clips())
def test_results_share_no_memory(clip: tuple[int, list[Labels]]) -> None:
    frames, labels = clip
    hold, untouched = LabelSmoother(frames), LabelSmoother(frames)
    for each in labels:
        lent = each.copy()
        shown = hold(lent)
        assert not np.shares_memory(shown, lent)
        assert np.array_equal(lent, each), "it wrote into what it was given"
        assert np.array_equal(shown, untouched(each))
        shown[...] = 200  # what others do with the answer, and with the runtime's buffer
        lent[...] = 100


def test_read_only_and_strided_arrays_are_accepted() -> None:
    wide = np.arange(24, dtype=np.uint8).reshape(4, 6)
    view = wide[::2, ::-1]
    wide.flags.writeable = False
    hold = LabelSmoother(2)
    assert np.array_equal(hold(view), view)
    assert np.array_equal(hold(view), view)


@pytest.mark.parametrize("frames", [-1, 0, 1, 256, 1000])
def test_a_number_of_frames_out_of_range_is_refused(frames: int) -> None:
    with pytest.raises(UsageError, match=str(frames)):
        LabelSmoother(frames)
    with Segmenter(FakeRuntime(rule=0)) as segmenter, pytest.raises(UsageError, match=str(frames)):
        Pipeline(IterableSource([]), segmenter, smoothing=frames)


# In a pipeline: the first channel is the label.


def shown_by(clips: list[list[int]], smoothing: int | None) -> list[list[int]]:
    seen: list[list[int]] = [[] for _ in clips]

    def keep(delivery: Delivery) -> None:
        assert np.unique(delivery.labels).size == 1
        seen[delivery.frame.camera].append(int(delivery.labels[0, 0]))

    sources = [IterableSource([np.full((2, 2, 3), label, np.uint8) for label in clip]) for clip in clips]
    with Segmenter(FakeRuntime(rule=lambda images: images[..., 0].copy())) as segmenter:
        in_time(Pipeline(sources, segmenter, [keep], smoothing=smoothing).run)
    return seen


def test_a_pipeline_smooths_each_camera_separately() -> None:
    first, second = [1, 2, 1, 2, 2, 2], [3, 3, 4, 4, 3, 4]
    assert shown_by([first, second], 2) == [held(2, first), held(2, second)]


def test_a_pipeline_does_not_smooth_by_default() -> None:
    assert shown_by([[1, 2, 1, 2]], None) == [[1, 2, 1, 2]]


def test_frames_are_not_smoothed() -> None:
    frames = [np.full((2, 2, 3), label, np.uint8) for label in (1, 2, 2)]
    seen: list[tuple[CameraFrame, Delivery]] = []
    with Segmenter(FakeRuntime(rule=lambda images: images[..., 0].copy())) as segmenter:
        sink = [lambda delivery: seen.append((delivery.frame, delivery))]
        in_time(Pipeline(IterableSource(frames), segmenter, sink, smoothing=3).run)
    assert [frame.image[0, 0, 0] for frame, _ in seen] == [1, 2, 2]
    assert [int(delivery.labels[0, 0]) for _, delivery in seen] == [1, 1, 1]
    assert all(delivery.result.labels.shape == (1, 2, 2) for _, delivery in seen)
