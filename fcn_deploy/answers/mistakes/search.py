"""Which of the usual mistakes explains that an artefact differs from the original.

Each mistake is undone on a copy: another preparation of the frames, an edited graph, another variant, another
order of the classes. First each alone on one frame, then the most promising in pairs; what brings the frame
within the limits is tried on up to three more. A mistake is named only where all of these frames are within
the limits with it, and no other one comes nearer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.answers.comparison import (
    AnswerComparison,
    AnswerLimits,
    FrameComparison,
    compare_frame,
    expected_labels,
    frame_for,
)
from fcn_deploy.answers.file import OriginalAnswer, OriginalAnswers
from fcn_deploy.answers.mistakes.class_order import class_order, reordered
from fcn_deploy.answers.mistakes.networks import TrialNetwork, can_be_tried, graph_network
from fcn_deploy.answers.mistakes.preparation import Preparation, preparations
from fcn_deploy.answers.mistakes.structure import structure_edits
from fcn_deploy.answers.mistakes.variants import other_variants, variant_network
from fcn_deploy.answers.running import Answered
from fcn_deploy.data.images import Image
from fcn_deploy.errors import ExportError, FcnDeployError
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

_FRAMES = 4
"""Frames that are tried, the smallest of those beyond the limits."""
_PAIRED_PREPARATIONS, _PAIRED_STRUCTURES = 2, 5
"""How many of each kind, those that came nearest alone, are tried in pairs."""


@dataclass(frozen=True)
class Mistake:
    """A difference between the original and the export, and how near the artefact comes without it."""

    kinds: tuple[str, ...]
    """In short: of ``color order``, ``/255``, ``mean``, ``std``, ``skip scales``, ``ceil_mode``,
    ``align_corners``, ``upsampling``, ``variant`` and ``class order``."""
    words: str
    """What the original does and the artefact does not."""
    repair: str
    """The options to export it with."""
    agreement: float
    """Share of equal labels of the worst frame tried, 0 to 1."""
    logit_error: float | None
    """The largest of the frames tried."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "kinds": list(self.kinds),
            "original": self.words,
            "repair": self.repair,
            "agreement": self.agreement,
            "logit_error": self.logit_error,
        }


@dataclass(frozen=True)
class Explanation:
    """What the search found."""

    mistakes: tuple[Mistake, ...]
    """Those that explain it, all equally well; empty where none does."""
    closest: Mistake | None
    """Where none does: the one that came nearest, if any came nearer than the artefact as it is."""
    tried: int
    """How many mistakes and pairs were tried."""


def explain(
    graph: ModelProto,
    spec: ModelSpec,
    originals: OriginalAnswers,
    compared: AnswerComparison,
    limits: AnswerLimits,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Explanation | None:
    """Try the usual mistakes on a graph that failed the comparison.

    Args:
        graph: the deploy graph, in fp32 or fp16; it is not changed.
        spec: its description.
        originals: what the original answered.
        compared: the comparison that failed.
        limits: what it failed.
        progress: called with a few words as the work goes on.

    Returns:
        None where frames cannot be fed to the graph as the search has to.
    """
    if not can_be_tried(graph):
        return None
    return _Search(graph, spec, originals, compared, limits, progress).run()


@dataclass(frozen=True)
class _TriedFrame:
    original: OriginalAnswer
    image: Image
    expected: NDArray[np.uint8]


@dataclass(frozen=True)
class _Structure:
    """A network with one difference in its layers, or none; opened for as long as it is used."""

    kinds: tuple[str, ...]
    words: str
    repair: str
    open: Callable[[], AbstractContextManager[TrialNetwork]]


@dataclass(frozen=True)
class _Hypothesis:
    """What is undone together."""

    structure: _Structure
    preparation: Preparation | None = None
    orders_classes: bool = False


@dataclass(frozen=True)
class _Outcome:
    hypothesis: _Hypothesis
    frames: tuple[FrameComparison, ...]
    order: NDArray[np.int64] | None

    @property
    def agreement(self) -> float:
        return min(frame.agreement for frame in self.frames)

    @property
    def logit_error(self) -> float | None:
        errors = [frame.logit_error for frame in self.frames if frame.logit_error is not None]
        return max(errors) if errors else None

    @property
    def distance(self) -> tuple[float, float]:
        """Smaller is nearer."""
        return 1 - self.agreement, self.logit_error or 0.0

    def holds(self, limits: AnswerLimits) -> bool:
        return limits.hold(self.agreement, self.logit_error)


class _Search:
    """One call of :func:`explain`."""

    def __init__(
        self,
        graph: ModelProto,
        spec: ModelSpec,
        originals: OriginalAnswers,
        compared: AnswerComparison,
        limits: AnswerLimits,
        progress: Callable[[str], None],
    ) -> None:
        self.spec, self.limits, self.progress = spec, limits, progress
        self.frames = [
            _TriedFrame(one, frame_for(one, originals, spec), expected_labels(one, spec))
            for one in (originals[number] for number in _chosen(compared, limits))
        ]
        self.plain = _Structure((), "", "", partial(graph_network, graph, spec))
        self.graph = graph
        self.tried = 0

    def run(self) -> Explanation:
        first = self.frames[:1]
        base = next(self._outcomes(self.plain, [_Hypothesis(self.plain)], first))
        alone = list(self._alone(first))
        found = self._confirmed(alone)
        if not found:
            pairs = list(self._pairs(alone, first))
            found = self._confirmed(pairs)
            alone += pairs
        if found:
            return Explanation(tuple(self._mistake(one) for one in found), None, self.tried)
        nearest = min(alone, key=lambda one: one.distance, default=None)
        nearer = nearest is not None and nearest.agreement > base.agreement
        return Explanation((), self._mistake(nearest) if nearest and nearer else None, self.tried)

    def _alone(self, frames: Sequence[_TriedFrame]) -> Iterator[_Outcome]:
        """Each mistake by itself."""
        prepared = [_Hypothesis(self.plain, one) for one in preparations(self.spec)]
        yield from self._outcomes(
            self.plain, [*prepared, _Hypothesis(self.plain, orders_classes=True)], frames
        )
        for structure in self._structures():
            yield from self._outcomes(structure, [_Hypothesis(structure)], frames)

    def _structures(self) -> Iterator[_Structure]:
        for name in other_variants(self.spec):
            opened = partial(variant_network, self.graph, self.spec, name)
            yield _Structure(("variant",), f"is {name}", f"--variant {name}", opened)
        for edit in structure_edits(self.graph):
            opened = partial(graph_network, edit.graph, self.spec)
            yield _Structure(edit.kinds, edit.words, edit.repair, opened)

    def _pairs(self, alone: list[_Outcome], frames: Sequence[_TriedFrame]) -> Iterator[_Outcome]:
        """The most promising, together."""
        ranked = sorted(alone, key=lambda one: one.distance)
        prepared = [one.hypothesis.preparation for one in ranked if one.hypothesis.preparation]
        structures = [
            one.hypothesis.structure for one in ranked if one.hypothesis.structure is not self.plain
        ]
        chosen = prepared[:_PAIRED_PREPARATIONS]
        ordered = [_Hypothesis(self.plain, one, orders_classes=True) for one in chosen]
        yield from self._outcomes(self.plain, ordered, frames)
        for structure in structures[:_PAIRED_STRUCTURES]:
            pairs = [_Hypothesis(structure, one) for one in chosen]
            yield from self._outcomes(
                structure, [*pairs, _Hypothesis(structure, orders_classes=True)], frames
            )

    def _outcomes(
        self, structure: _Structure, hypotheses: Iterable[_Hypothesis], frames: Sequence[_TriedFrame]
    ) -> Iterator[_Outcome]:
        """What each hypothesis about one network gives; those that cannot be computed are left out."""
        try:
            with structure.open() as network:
                for hypothesis in hypotheses:
                    self.tried += 1
                    self.progress(f"looking for the mistake: {self.tried} tried")
                    yield self._outcome(network, hypothesis, frames)
        except FcnDeployError:
            return

    def _outcome(
        self, network: TrialNetwork, hypothesis: _Hypothesis, frames: Sequence[_TriedFrame]
    ) -> _Outcome:
        found = [self._answered(network, hypothesis.preparation, frame) for frame in frames]
        order = None
        if hypothesis.orders_classes:
            order = class_order(
                [one.expected for one in frames],
                [one.original.logits for one in frames],
                found,
                self.spec.num_classes,
            )
            found = [reordered(one, order) for one in found]
        records = tuple(
            compare_frame(one.original, one.expected, answered, self.spec)
            for one, answered in zip(frames, found, strict=True)
        )
        return _Outcome(hypothesis, records, order)

    def _answered(
        self, network: TrialNetwork, preparation: Preparation | None, frame: _TriedFrame
    ) -> Answered:
        image = frame.image
        values = image.astype(np.float32) if preparation is None else preparation.applied(image, self.spec)
        try:
            return network(image, values)
        except Exception as exc:  # an edit may not fit this graph, and runtimes raise many classes
            raise ExportError(f"cannot be computed: {exc}") from exc

    def _confirmed(self, outcomes: list[_Outcome]) -> list[_Outcome]:
        """Those within the limits on every frame that is tried; of them the nearest, and its equals."""
        holding = [one for one in outcomes if one.holds(self.limits) and self._says_something(one)]
        confirmed = []
        for outcome in holding:
            rest = self.frames[1:]
            hypothesis = outcome.hypothesis
            others = list(self._outcomes(hypothesis.structure, [hypothesis], rest)) if rest else []
            frames = (*outcome.frames, *(frame for other in others for frame in other.frames))
            whole = replace(outcome, frames=frames)
            if whole.holds(self.limits) and len(whole.frames) == len(self.frames):
                confirmed.append(whole)
        return _equals(confirmed)

    @staticmethod
    def _says_something(outcome: _Outcome) -> bool:
        """A class order that changes nothing is none."""
        return outcome.order is None or bool((outcome.order != np.arange(len(outcome.order))).any())

    def _mistake(self, outcome: _Outcome) -> Mistake:
        structure, preparation = outcome.hypothesis.structure, outcome.hypothesis.preparation
        parts = [(structure.kinds, structure.words, structure.repair)]
        if preparation is not None:
            parts.append((preparation.kinds, preparation.words, preparation.repair(self.spec)))
        if outcome.order is not None:
            parts.append((("class order",), *_order_words(outcome.order, self.spec)))
        kinds, words, repairs = zip(*(part for part in parts if part[0]), strict=True)
        return Mistake(
            kinds=tuple(itertools.chain.from_iterable(kinds)),
            words=" and ".join(words),
            repair=" ".join(repairs),
            agreement=outcome.agreement,
            logit_error=outcome.logit_error,
        )


def _chosen(compared: AnswerComparison, limits: AnswerLimits) -> list[int]:
    """Numbers of the frames to try: the smallest of those beyond the limits."""
    beyond = [
        (frame.height * frame.width, number)
        for number, frame in enumerate(compared.frames)
        if not limits.hold(frame.agreement, frame.logit_error)
    ]
    return [number for _, number in sorted(beyond)[:_FRAMES]]


def _equals(outcomes: list[_Outcome]) -> list[_Outcome]:
    """The nearest, and those that come as near: nothing in the answers tells them apart."""
    if not outcomes:
        return []
    ranked = sorted(outcomes, key=lambda one: one.distance)
    differing, error = ranked[0].distance
    return [
        one
        for one in ranked
        if one.distance[0] <= 2 * differing + 1e-4 and one.distance[1] <= 5 * error + 1e-5
    ]


def _order_words(order: NDArray[np.int64], spec: ModelSpec) -> tuple[str, str]:
    """What the original calls each class that has moved, and the repair."""
    moved = [number for number, original in enumerate(order) if number != original]
    shown = ", ".join(f"{number} ({spec.classes[number]}) is its {order[number]}" for number in moved[:6])
    more = f" and {len(moved) - 6} more" if len(moved) > 6 else ""
    ids = ",".join(map(str, order)) if len(order) <= 32 else "that order"
    return (
        f"has its classes in another order (this artefact's {shown}{more})",
        f"--classes and the original's names in the order of its ids {ids}",
    )
