"""Any runtime over labelled frames -> the paper's four metrics, streamed in constant memory."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.frames import Frame
from fcn_deploy.errors import SourceError
from fcn_deploy.metrics import ConfusionMatrix
from fcn_deploy.runtimes.base import Segmentation
from fcn_deploy.spec import ModelSpec


class Labels(Protocol):
    """What is scored: a Segmenter or a Runtime."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def backend(self) -> str: ...
    def infer(self, images: NDArray[np.uint8]) -> Segmentation: ...


class Labelled(Protocol):
    """Frames with labels; reading one may raise SourceError without ending the evaluation."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Frame: ...


@dataclass(frozen=True)
class ScoredFrame:
    """A frame with its truth and answer; the worst ones are kept to be looked at."""

    mean_iu: float
    frame: Frame
    answer: NDArray[np.uint8]
    """uint8 ``[H, W]``."""


@dataclass(frozen=True)
class Evaluation:
    """What an artefact scored. Fractions are from 0 to 1."""

    artefact: str
    backend: str
    confusion: ConfusionMatrix
    classes: tuple[str, ...]
    frames: int
    """How many were scored."""
    problems: tuple[str, ...] = ()
    """A sentence for each frame that could not be scored; it is in none of the figures."""
    worst: tuple[ScoredFrame, ...] = field(default=(), repr=False)
    """Lowest mean IU first."""

    @property
    def mean_iu(self) -> float:
        return self.confusion.mean_iu

    @property
    def pixel_accuracy(self) -> float:
        return self.confusion.pixel_accuracy

    @property
    def mean_accuracy(self) -> float:
        return self.confusion.mean_accuracy

    @property
    def fw_iu(self) -> float:
        return self.confusion.fw_iu

    @property
    def iu_by_class(self) -> dict[str, float | None]:
        """By class name; None for a class in neither truth nor answer."""
        values = self.confusion.iu_by_class
        return {
            name: None if math.isnan(value) else float(value)
            for name, value in zip(self.classes, values, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """As ``eval --json`` writes it."""
        return {
            "artefact": self.artefact,
            "backend": self.backend,
            "mean_iu": self.mean_iu,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "fw_iu": self.fw_iu,
            "iu_by_class": self.iu_by_class,
            "frames": self.frames,
            "problems": list(self.problems),
        }


def evaluate(
    segmenter: Labels,
    dataset: Labelled,
    *,
    artefact: str = "",
    ignore_label: int | None = None,
    keep_worst: int = 0,
    progress: Callable[[], None] | None = None,
) -> Evaluation:
    """Score a model on labelled frames.

    Args:
        segmenter: an opened artefact.
        dataset: frames in the model's colour order, with labels; one is in memory at a time.
        artefact: its name in the result.
        ignore_label: label that is not scored; None takes the spec's.
        keep_worst: how many of the worst frames to keep.
        progress: called after each frame.

    Raises:
        SourceError: not one frame could be scored, or each of their pixels is ignored.
        InferenceError: the backend failed.
    """
    spec = segmenter.spec
    ignored = spec.ignore_label if ignore_label is None else ignore_label
    confusion = ConfusionMatrix(spec.num_classes, ignored)
    problems: list[str] = []
    worst: list[tuple[float, int, ScoredFrame]] = []
    for index in range(len(dataset)):
        try:
            own, one = _score(segmenter, dataset[index], ignored)
        except SourceError as exc:
            problems.append(str(exc))
        else:
            confusion.counts += own.counts
            if keep_worst and not math.isnan(one.mean_iu):
                heapq.heappush(worst, (-one.mean_iu, -index, one))
                if len(worst) > keep_worst:
                    heapq.heappop(worst)  # the smallest: the best of the worst
            del one  # the next frame is read with this one gone
        if progress:
            progress()
    scored = len(dataset) - len(problems)
    if scored == 0:
        first = problems[0] if problems else "the folder is empty"
        raise SourceError(f"not one of {len(dataset)} frames could be scored; the first: {first}")
    if not confusion.counts.any():
        raise SourceError(f"every pixel of {scored} frames has an ignored label; there is nothing to score")
    kept = tuple(one for _, _, one in sorted(worst, reverse=True))
    return Evaluation(artefact, segmenter.backend, confusion, spec.classes, scored, tuple(problems), kept)


def _score(segmenter: Labels, frame: Frame, ignored: int) -> tuple[ConfusionMatrix, ScoredFrame]:
    """One frame's counts and answer. Raises SourceError that names the frame."""
    if frame.labels is None:
        raise SourceError(f"{frame.name} has no labels")
    own = ConfusionMatrix(segmenter.spec.num_classes, ignored)
    try:
        answer = segmenter.infer(frame.image[None]).labels[0]
        own.update(frame.labels, answer)
    except SourceError as exc:
        raise SourceError(f"{frame.name}: {exc}") from exc
    return own, ScoredFrame(own.mean_iu, frame, answer)
