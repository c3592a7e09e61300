"""The figures: label agreement, relative logit error, and the limits that they are held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.answers.comparison import AnswerLimits, compare_answers, default_limits, expected_labels
from fcn_deploy.answers.file import OriginalAnswer, OriginalAnswers
from fcn_deploy.answers.running import Answered
from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.spec import Architecture, ModelSpec

SPEC = ModelSpec(classes=("a", "b", "c"), architecture=Architecture("any"), max_height=64, max_width=64)
FRAMES = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 3), np.uint8)
LOGITS = np.random.default_rng(2).normal(size=(3, 3, 6, 8)).astype(np.float32)


def opened(folder: Path, **arrays: object) -> OriginalAnswers:
    path = folder / "answers.npz"
    np.savez(path, **{"frames": FRAMES, "color_order": "bgr", **arrays})
    return OriginalAnswers(path)


def answers(logits: np.ndarray, with_logits: bool = True):
    """Answers each frame in turn with these logits."""
    each = iter(logits)

    def answer(_: np.ndarray) -> Answered:
        found = next(each)
        return Answered(found.argmax(0).astype(np.uint8), found if with_logits else None)

    return answer


def test_equal_answers_agree_completely(tmp_path: Path) -> None:
    found = compare_answers(opened(tmp_path, logits=LOGITS), answers(LOGITS), SPEC)
    assert (found.agreement, found.lowest, found.logit_error) == (1, 1, 0)
    assert [frame.name for frame in found.frames] == ["frames[0]", "frames[1]", "frames[2]"]


def test_the_worst_frame_and_the_confusion_are_kept(tmp_path: Path) -> None:
    ours = LOGITS.copy()
    ours[1, 2, :3] += 100  # half of the second frame becomes class c
    found = compare_answers(opened(tmp_path, logits=LOGITS), answers(ours), SPEC)
    expected = LOGITS.argmax(1)
    wrong = (expected[1, :3] != 2).sum()
    assert found.worst.comparison.name == "frames[1]"
    assert (found.worst.original == expected[1]).all() and (found.worst.image == FRAMES[1]).all()
    assert found.lowest == pytest.approx(1 - wrong / 48)
    assert found.agreement == pytest.approx(1 - wrong / 144)
    assert found.confusion.counts.sum() == 144
    assert found.confusion.counts[:2, 2].sum() == wrong
    assert found.logit_error == pytest.approx(100 / np.abs(LOGITS[1]).max(), rel=1e-6)


def test_labels_of_255_are_not_compared(tmp_path: Path) -> None:
    labels = LOGITS.argmax(1)
    labels[:, :5] = 255
    found = compare_answers(opened(tmp_path, labels=labels), answers(-LOGITS), SPEC)
    rows = (LOGITS.argmax(1) == (-LOGITS).argmax(1))[:, 5]
    assert found.agreement == pytest.approx(rows.mean())
    assert found.logit_error is None


def test_frames_are_handed_over_in_the_artefacts_order(tmp_path: Path) -> None:
    seen = []

    def answer(image: np.ndarray) -> Answered:
        seen.append(image)
        return Answered(np.zeros((6, 8), np.uint8), None)

    rgb = opened(tmp_path, labels=np.zeros((3, 6, 8), int), color_order="rgb")
    compare_answers(rgb, answer, SPEC)
    assert (np.stack(seen) == FRAMES[..., ::-1]).all()
    seen.clear()
    compare_answers(rgb, answer, SPEC.replace(color_order="rgb"))
    assert (np.stack(seen) == FRAMES).all()


def test_a_frame_beyond_the_artefacts_limits_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"answers\.npz: frames\[0\]: a frame of 6x8 is larger"):
        compare_answers(opened(tmp_path, logits=LOGITS), answers(LOGITS), SPEC.replace(max_height=5))


def test_other_classes_are_refused() -> None:
    more = np.zeros((4, 6, 8), np.float32)
    with pytest.raises(SourceError, match="4 channels of logits and this artefact 3"):
        expected_labels(OriginalAnswer("frames[0]", FRAMES[0], None, more), SPEC)
    strange = np.full((6, 8), 7, np.uint8)
    with pytest.raises(SourceError, match="answered class 7 and this artefact has 3 classes, 0 to 2"):
        expected_labels(OriginalAnswer("frames[0]", FRAMES[0], strange, None), SPEC)


def test_one_channel_is_two_classes_by_the_threshold(tmp_path: Path) -> None:
    spec = SPEC.replace(classes=("no", "yes"), palette=(), threshold=0.7)
    one = LOGITS[:, :1]
    limit = np.log(0.7 / 0.3)
    two = np.concatenate([np.full_like(one, limit), one], 1)  # as the deploy graph has them
    found = compare_answers(opened(tmp_path, logits=one), answers(two), spec)
    assert found.agreement == 1 and found.logit_error == 0
    assert 0 < found.confusion.counts[1, 1] < 144


@pytest.mark.parametrize(
    ("agreement", "error", "passes"),
    [
        (0.999, 0.002, True),
        (0.9989, 0.0, False),
        (1.0, 0.0021, False),
        (1.0, None, True),
        (1.0, np.nan, False),
    ],
)
def test_limits_of_fp32(agreement: float, error: float | None, passes: bool) -> None:
    assert default_limits(SPEC).hold(agreement, error) is passes


def test_int8_has_limits_of_its_own_and_its_logits_are_not_judged() -> None:
    limits = default_limits(SPEC.replace(precision="int8"))
    assert limits.hold(0.95, 0.5) and not limits.hold(0.94, 0.0)
    assert default_limits(SPEC, agreement=0.5, logit_error=1).hold(0.5, 1.0)


@pytest.mark.parametrize(("agreement", "error"), [(1.1, 0), (-0.1, 0), (0.9, -1), (np.nan, 0), (0.9, np.nan)])
def test_limits_out_of_range_are_wrong_use(agreement: float, error: float) -> None:
    with pytest.raises(UsageError, match="must be"):
        AnswerLimits(agreement, error)
