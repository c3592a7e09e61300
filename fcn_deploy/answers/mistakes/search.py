"""Which of the usual mistakes explains that an artefact differs from the original.

Each mistake is undone on a copy: another preparation of the frames, an edited graph, another variant, another
order of the classes. First each alone on one frame; where none fits, the nearest preparations together with
each other difference. What brings the frame within the limits is tried on up to three more. A mistake is
named where all of these frames are within the limits with it, no other one comes nearer, and no part of it is
enough. The search ends early where logits are equal but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

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
from fcn_deploy.answers.mistakes.explanation import Explanation, Mistake
from fcn_deploy.answers.mistakes.networks import TrialNetwork, can_be_tried, graph_network
from fcn_deploy.answers.mistakes.preparation import TriedPreparation, preparations
from fcn_deploy.answers.mistakes.structure import StructureEdit, structure_edits
from fcn_deploy.answers.mistakes.variants import other_variants, variant_network
from fcn_deploy.answers.running import Answered
from fcn_deploy.data.images import Image
from fcn_deploy.errors import ExportError, FcnDeployError
from fcn_deploy.export.parity import TOLERANCE
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

_FRAMES = 4
"""Frames that are tried, the smallest of those beyond the limits."""
_PAIRED = 3
"""Preparations, those that came nearest alone, that are tried together with each other difference. While the
preparation is wrong the others hardly show, so none of those is left out."""


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
    preparation: TriedPreparation | None = None
    orders_classes: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        prepared = () if self.preparation is None else self.preparation.kinds
        return (*self.structure.kinds, *prepared, *(("class order",) if self.orders_classes else ()))


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

    @property
    def is_exact(self) -> bool:
        """Whether logits differ by no more than rounding makes of equal networks: nothing fits better."""
        return self.logit_error is not None and self.logit_error <= TOLERANCE

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
        base = next(self._outcomes(self.plain, [_Hypothesis(self.plain)], first), None)
        found: list[_Outcome] = []
        tried: list[_Outcome] = []
        for stage in (self._prepared, self._built_otherwise, self._of_other_variants):
            outcomes = list(stage(first))
            tried += outcomes
            found = _equals([*found, *self._confirmed(outcomes)])
            if any(one.is_exact for one in found):
                break
        if not found:
            pairs = list(self._pairs(tried, first))
            tried += pairs
            found = _equals(self._confirmed(pairs))
        if found:
            return Explanation(tuple(self._mistake(one) for one in found), None, self.tried)
        nearest = min(tried, key=lambda one: one.distance, default=None)
        if nearest is None or base is None or nearest.agreement <= base.agreement:
            return Explanation((), None, self.tried)
        return Explanation((), self._mistake(nearest), self.tried)

    def _prepared(self, frames: Sequence[_TriedFrame]) -> Iterator[_Outcome]:
        """Each preparation, and the order of the classes: the graph stays as it is."""
        hypotheses = [_Hypothesis(self.plain, one) for one in preparations(self.spec)]
        hypotheses.append(_Hypothesis(self.plain, orders_classes=True))
        yield from self._outcomes(self.plain, hypotheses, frames)

    def _built_otherwise(self, frames: Sequence[_TriedFrame]) -> Iterator[_Outcome]:
        """Each edit of the graph."""
        for edit in structure_edits():
            opened = partial(self._edited, edit)
            structure = _Structure(edit.kinds, edit.words, edit.repair, opened)
            yield from self._outcomes(structure, [_Hypothesis(structure)], frames)

    @contextmanager
    def _edited(self, edit: StructureEdit) -> Iterator[TrialNetwork]:
        """Made when it is used, because each copy of a graph holds all of its weights."""
        graph = edit.applied_to(self.graph)
        if graph is None:
            raise ExportError("the graph has no such layers")
        with graph_network(graph, self.spec) as network:
            del graph
            yield network

    def _of_other_variants(self, frames: Sequence[_TriedFrame]) -> Iterator[_Outcome]:
        """Each variant of FCN-8s that takes the same weights."""
        for name in other_variants(self.spec):
            opened = partial(variant_network, self.graph, self.spec, name)
            structure = _Structure(("variant",), f"is {name}", f"--variant {name}", opened)
            yield from self._outcomes(structure, [_Hypothesis(structure)], frames)

    def _pairs(self, alone: list[_Outcome], frames: Sequence[_TriedFrame]) -> Iterator[_Outcome]:
        """The nearest preparations, each together with every other difference."""
        ranked = sorted(alone, key=lambda one: one.distance)
        chosen = [one.hypothesis.preparation for one in ranked if one.hypothesis.preparation][:_PAIRED]
        ordered = [_Hypothesis(self.plain, one, orders_classes=True) for one in chosen]
        yield from self._outcomes(self.plain, ordered, frames)
        for structure in (one.hypothesis.structure for one in alone):
            if structure is not self.plain:
                pairs = [_Hypothesis(structure, one) for one in chosen]
                ordered = [_Hypothesis(structure, orders_classes=True)]
                yield from self._outcomes(structure, [*pairs, *ordered], frames)

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
        self, network: TrialNetwork, preparation: TriedPreparation | None, frame: _TriedFrame
    ) -> Answered:
        image = frame.image
        values = image.astype(np.float32) if preparation is None else preparation.applied(image, self.spec)
        try:
            return network(image, values)
        except Exception as exc:  # an edit may not fit this graph, and runtimes raise many classes
            raise ExportError(f"cannot be computed: {exc}") from exc

    def _confirmed(self, outcomes: list[_Outcome]) -> list[_Outcome]:
        """Those within the limits on every frame that is tried."""
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
        return confirmed

    @staticmethod
    def _says_something(outcome: _Outcome) -> bool:
        """A class order that changes nothing is none."""
        return outcome.order is None or bool((outcome.order != np.arange(len(outcome.order))).any())

    def _mistake(self, outcome: _Outcome) -> Mistake:
        structure, preparation = outcome.hypothesis.structure, outcome.hypothesis.preparation
        parts = [(structure.words, structure.repair)] if structure.words else []
        if preparation is not None:
            parts.append((preparation.words, preparation.repair(self.spec)))
        if outcome.order is not None:
            parts.append(_order_words(outcome.order, self.spec))
        words, repairs = zip(*parts, strict=True)
        return Mistake(
            kinds=outcome.hypothesis.kinds,
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
    """The nearest, and those that come as near, which nothing in the answers tells apart; without those of
    which a part is enough. The simplest come first."""
    if not outcomes:
        return []
    differing, error = min(one.distance for one in outcomes)
    near = [
        one
        for one in outcomes
        if one.distance[0] <= 2 * differing + 1e-4 and one.distance[1] <= 5 * error + 1e-5
    ]
    kinds = [set(one.hypothesis.kinds) for one in near]
    simple = [one for one, own in zip(near, kinds, strict=True) if not any(other < own for other in kinds)]
    return sorted(simple, key=lambda one: (len(one.hypothesis.kinds), one.distance))


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
