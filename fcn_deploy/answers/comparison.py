"""An artefact's answers against those of the original, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.answers.file import OriginalAnswer, OriginalAnswers
from fcn_deploy.answers.running import Answered, AnswerFrame
from fcn_deploy.data.images import Image
from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.metrics import ConfusionMatrix
from fcn_deploy.runtimes.base import check_frame_shape
from fcn_deploy.spec import UNLABELLED, ModelSpec


@dataclass(frozen=True)
class AnswerLimits:
    """What an artefact must keep to pass.

    Raises:
        UsageError: a number is out of range.
    """

    agreement: float
    """Share of equal labels that each frame must have, 0 to 1."""
    logit_error: float | None
    """Largest relative logit error of a frame; None where logits are not judged."""

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1:
            raise UsageError(f"the least agreement must be from 0 to 1, not {self.agreement}")
        if self.logit_error is not None and not self.logit_error >= 0:
            raise UsageError(f"the largest logit error must be at least 0, not {self.logit_error}")

    def hold(self, agreement: float, logit_error: float | None) -> bool:
        """Whether a frame passes; NaN never does."""
        within = logit_error is None or self.logit_error is None or logit_error <= self.logit_error
        return agreement >= self.agreement and within


_LIMITS = {
    "fp32": AnswerLimits(0.999, 2e-3),
    "fp16": AnswerLimits(0.998, 5e-3),
    "int8": AnswerLimits(0.95, None),
    "int8+fp16": AnswerLimits(0.95, None),
}
"""By precision: ``docs/how-to/check-against.md`` has what right and wrong exports were measured to give."""


def default_limits(
    spec: ModelSpec, *, agreement: float | None = None, logit_error: float | None = None
) -> AnswerLimits:
    """The limits for a model's precision, with those that were given in their place."""
    usual = _LIMITS[spec.precision]
    return AnswerLimits(
        usual.agreement if agreement is None else agreement,
        usual.logit_error if logit_error is None else logit_error,
    )


@dataclass(frozen=True)
class FrameComparison:
    """One frame's result."""

    name: str
    """Where the frame is in the answers file."""
    height: int
    width: int
    agreement: float
    """Share of equal labels, 0 to 1."""
    logit_error: float | None
    """Largest difference of a logit over the original's largest logit; None where one side has no logits."""


@dataclass(frozen=True)
class WorstFrame:
    """The frame whose labels agree least, to be drawn."""

    comparison: FrameComparison
    image: Image
    """uint8 ``[H, W, 3]`` in the spec's colour order."""
    original: NDArray[np.uint8]
    """uint8 ``[H, W]``: what the original answered."""
    found: NDArray[np.uint8]
    """uint8 ``[H, W]``: what the artefact answered."""


@dataclass(frozen=True)
class AnswerComparison:
    """All frames of an answers file."""

    frames: tuple[FrameComparison, ...]
    confusion: ConfusionMatrix
    """Rows are the original's labels, columns the artefact's."""
    worst: WorstFrame

    @property
    def agreement(self) -> float:
        """Share of equal labels over all frames, 0 to 1."""
        return self.confusion.pixel_accuracy

    @property
    def lowest(self) -> float:
        """Share of equal labels of the worst frame."""
        return self.worst.comparison.agreement

    @property
    def logit_error(self) -> float | None:
        """The largest of all frames; None where there are no logits to compare."""
        errors = [frame.logit_error for frame in self.frames if frame.logit_error is not None]
        return float(np.max(errors)) if errors else None


def compare_answers(
    originals: OriginalAnswers,
    answer: AnswerFrame,
    spec: ModelSpec,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> AnswerComparison:
    """Compare each frame of the file.

    Args:
        originals: what the original answered.
        answer: gives the artefact's answers.
        spec: its description.
        progress: called with the number of frames done and of all.

    Raises:
        SourceError: a frame is outside the artefact's limits, or the original has other classes.
    """
    confusion = _confusion(spec)
    frames: list[FrameComparison] = []
    worst: WorstFrame | None = None
    for number, original in enumerate(originals):
        image = frame_for(original, originals, spec)
        expected = expected_labels(original, spec)
        found = answer(image)
        record = compare_frame(original, expected, found, spec)
        confusion.update(expected, found.labels)
        frames.append(record)
        if worst is None or record.agreement < worst.comparison.agreement:
            worst = WorstFrame(record, image, expected, found.labels)
        progress(number + 1, len(originals))
    if worst is None:
        raise SourceError(f"{originals.path} has no frames")
    return AnswerComparison(tuple(frames), confusion, worst)


def compare_frame(
    original: OriginalAnswer, expected: NDArray[np.uint8], found: Answered, spec: ModelSpec
) -> FrameComparison:
    """One frame's agreement and logit error.

    Args:
        original: the frame and what the original answered.
        expected: its labels, as :func:`expected_labels` gives them.
        found: what the artefact answered.
        spec: its description.
    """
    compared = expected != UNLABELLED
    error = None
    if original.logits is not None and found.logits is not None:
        # A network of one channel has a constant in front of it, so the last channels are compared; in
        # float64, so that the numbers of an fp16 graph do not overflow.
        own = found.logits[-len(original.logits) :].astype(np.float64)
        difference = np.abs(own - original.logits).max()
        error = float(difference / max(float(np.abs(original.logits).max()), np.finfo(np.float32).tiny))
    return FrameComparison(
        name=original.name,
        height=expected.shape[0],
        width=expected.shape[1],
        agreement=float((found.labels == expected)[compared].mean()) if compared.any() else 1.0,
        logit_error=error,
    )


def frame_for(original: OriginalAnswer, originals: OriginalAnswers, spec: ModelSpec) -> Image:
    """The frame in the artefact's colour order. Raises SourceError where its size is not accepted."""
    try:
        check_frame_shape((spec.fixed_shape[0] or 1, *original.image.shape), spec)
    except SourceError as exc:
        raise SourceError(f"{originals.path}: {original.name}: {exc}") from exc
    swapped = originals.color_order != spec.color_order
    return np.ascontiguousarray(original.image[..., ::-1]) if swapped else original.image


def expected_labels(original: OriginalAnswer, spec: ModelSpec) -> NDArray[np.uint8]:
    """The original's labels, uint8 ``[H, W]``: as they are in the file, or taken from its logits.

    Raises:
        SourceError: the original has other classes than the artefact.
    """
    logits, n = original.logits, spec.num_classes
    channels = None if logits is None else len(logits)
    wanted = 1 if spec.threshold is not None else n
    if channels not in (None, wanted):
        raise SourceError(
            f"{original.name}: the original has {channels} channels of logits and this artefact {wanted}; "
            "it is another network, or was exported with other classes (--num-classes, --classes)"
        )
    if original.labels is not None:
        strange = original.labels[(original.labels >= n) & (original.labels != UNLABELLED)]
        if strange.size:
            raise SourceError(
                f"{original.name}: the original answered class {strange.max()} and this artefact has {n} "
                f"classes, 0 to {n - 1}; write 255 where a pixel is not to be compared"
            )
        return original.labels
    assert logits is not None, "a file without labels has logits"
    if spec.threshold is not None:
        limit = np.log(spec.threshold / (1 - spec.threshold))  # the logit whose sigmoid is the threshold
        return np.asarray(logits[0] > limit, np.uint8)
    return np.asarray(logits.argmax(0), np.uint8)


def _confusion(spec: ModelSpec) -> ConfusionMatrix:
    """Counts every class: an ignore label that is one is a prediction like any other here."""
    return ConfusionMatrix(spec.num_classes, UNLABELLED)
