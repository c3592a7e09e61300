"""Networks to try a mistake with: a graph with one difference, fed with frames that have fractions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.answers.running import Answered, as_batch, cropped, logits_inside
from fcn_deploy.contract import INPUT
from fcn_deploy.data.images import Image
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF, replace_nodes
from fcn_deploy.lazy import require
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_FLOAT_TYPES: dict[int, np.dtype[Any]] = {PROTO_FLOAT: np.dtype(np.float32), PROTO_HALF: np.dtype(np.float16)}


class TrialNetwork(Protocol):
    """Answers a frame whose values need not be whole numbers."""

    def __call__(self, image: Image, frame: NDArray[np.float32]) -> Answered:
        """``image``: the frame as it is in the file; ``frame``: what it is to be, float32 ``[H, W, 3]``."""


@contextmanager
def graph_network(model: ModelProto, spec: ModelSpec) -> Iterator[TrialNetwork]:
    """A deploy graph in ONNX Runtime.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    source = logits_inside(model)
    graph, name, kind = with_float_frame(model)
    names = ["labels", *([source[0]] if source else [])]
    with open_session(graph, names[1:]) as session:
        del model, graph  # the session has weights of its own

        def answer(image: Image, frame: NDArray[np.float32]) -> Answered:
            feeds = {INPUT: as_batch(image, spec), name: as_batch(frame.astype(kind), spec)}
            found = session.run(names, feeds)
            return Answered(found[0][0], cropped(found[1][0], source[1], image) if source else None)

        yield answer


def can_be_tried(model: ModelProto) -> bool:
    """Whether frames with fractions can be fed to it: the image goes into one Cast to float."""
    return _cast_of_frame(model) is not None


def with_float_frame(model: ModelProto) -> tuple[ModelProto, str, np.dtype[Any]]:
    """A copy in which what the Cast of the image gives is an input, with that input's name and type."""
    onnx = require("onnx", extra="export")
    cast = _cast_of_frame(model)
    assert cast is not None, "asked before, with can_be_tried"
    kind, name = int(cast.attribute[0].i), str(cast.output[0])
    copied: ModelProto = onnx.ModelProto()
    copied.CopyFrom(model)
    kept = [node for node in copied.graph.node if name not in node.output]
    replace_nodes(copied.graph, kept)
    copied.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None, None, None, 3]))
    del copied.graph.value_info[:]
    return copied, name, _FLOAT_TYPES[kind]


def _cast_of_frame(model: ModelProto) -> NodeProto | None:
    """The Cast to float that the image goes into, where there is exactly one."""
    casts: list[NodeProto] = [
        node for node in model.graph.node if node.op_type == "Cast" and INPUT in node.input
    ]
    others = {node.op_type for node in model.graph.node if INPUT in node.input} - {"Cast", "Shape"}
    usable = len(casts) == 1 and not others and casts[0].attribute[0].i in _FLOAT_TYPES
    return casts[0] if usable else None
