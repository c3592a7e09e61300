"""Labels, and logits where they can be had, of what is compared: a graph, or an open model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import INPUT
from fcn_deploy.data.images import Image
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import attributes, crop_offset, deciding_node
from fcn_deploy.runtimes.base import Frames, Segmentation
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto


class Answered(NamedTuple):
    """What one frame was answered with."""

    labels: NDArray[np.uint8]
    """uint8 ``[H, W]``."""
    logits: NDArray[np.floating[Any]] | None
    """float ``[classes, H, W]``; None where they cannot be had."""


AnswerFrame = Callable[[Image], Answered]
"""uint8 ``[H, W, 3]`` in the spec's colour order -> what it is answered with."""


def answer_with(infer: Callable[[Frames], Segmentation], spec: ModelSpec) -> AnswerFrame:
    """The answers of an open model: its labels, and its logits where it was exported with them."""

    def answer(image: Image) -> Answered:
        found = infer(as_batch(image, spec))
        return Answered(found.labels[0], None if found.logits is None else found.logits[0])

    return answer


@contextmanager
def answer_of_graph(graph: ModelProto, spec: ModelSpec) -> Iterator[AnswerFrame]:
    """The answers of a deploy graph in ONNX Runtime, with logits from inside the graph.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    source = logits_inside(graph)
    names = ["labels", *([source[0]] if source else [])]
    with open_session(graph, names[1:]) as session:

        def answer(image: Image) -> Answered:
            found = session.run(names, {INPUT: as_batch(image, spec)})
            return Answered(found[0][0], cropped(found[1][0], source[1], image) if source else None)

        yield answer


def as_batch(image: Image, spec: ModelSpec) -> Frames:
    """``[N, H, W, 3]`` of one frame, repeated where the model takes a fixed number at a time."""
    return np.repeat(image[None], spec.fixed_shape[0] or 1, axis=0)


def cropped(logits: NDArray[Any], start: int, image: Image) -> NDArray[Any]:
    """``[classes, H, W]`` at the frame's place and size."""
    height, width = image.shape[:2]
    found: NDArray[Any] = logits[:, start : start + height, start : start + width]
    return found


def logits_inside(graph: ModelProto) -> tuple[str, int] | None:
    """The tensor of logits and where the frame starts in it; None where labels are not taken from logits
    alone, as in a graph for CPUs that compares classes by cell."""
    if any(output.name == "logits" for output in graph.graph.output):
        return "logits", 0
    deciding = deciding_node(graph)
    if deciding is None or attributes(deciding).get("axis") != 1:
        return None
    return deciding.input[0], crop_offset(graph)
