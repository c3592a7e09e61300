"""Labels from the cells of the score map: pixels are computed only in cells with more than one class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.export.graph.surgery import replace_nodes
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_FACTOR = 8

_LABELS = """
cells (float[batch, classes, h, w] scores) => (uint8[batch, rows, columns] labels)
<
  int64[8] border = {0, 0, 1, 1, 0, 0, 1, 1},
  int64[2] axes = {1, 2}, int64[2] first = {0, 0}, int64[2] next_both = {1, 1},
  int64[2] next_row = {1, 0}, int64[2] next_column = {0, 1},
  int64[2] all_but_last = {-1, -1}, int64[2] to_end = {2147483647, 2147483647},
  int64[2] all_but_row = {-1, 2147483647}, int64[2] all_but_column = {2147483647, -1},
  int64[3] right_of = {0, 0, 1}, int64[3] below = {0, 1, 0}, int64[3] across = {0, 1, 1},
  int64[1] two = {2}, int64[1] three = {3}, int64[1] zero = {0}, int64[1] one = {1},
  int64[1] pixels = {64}, int64[2] block = {8, 8}, int64[1] eight = {8},
  int64[2] margin = {4, 4}, int64[2] all_but_margin = {-4, -4}
>
{
  padded = Pad <mode = "edge"> (scores, border)
  by_place = Transpose <perm = [0, 2, 3, 1]> (padded)
  winners = ArgMax <axis = 3, keepdims = 0> (by_place)

  w00 = Slice (winners, first, all_but_last, axes)
  w01 = Slice (winners, next_column, all_but_row, axes)
  w10 = Slice (winners, next_row, all_but_column, axes)
  w11 = Slice (winners, next_both, to_end, axes)
  same01 = Equal (w00, w01)
  same10 = Equal (w00, w10)
  same11 = Equal (w00, w11)
  same_edge = And (same01, same10)
  settled = And (same_edge, same11)
  mixed = Not (settled)
  mixed_places = NonZero (mixed)
  at00 = Transpose <perm = [1, 0]> (mixed_places)
  at01 = Add (at00, right_of)
  at10 = Add (at00, below)
  at11 = Add (at00, across)

  s00 = GatherND (by_place, at00)
  s01 = GatherND (by_place, at01)
  s10 = GatherND (by_place, at10)
  s11 = GatherND (by_place, at11)
  c00 = Unsqueeze (s00, two)
  c01 = Unsqueeze (s01, two)
  c10 = Unsqueeze (s10, two)
  c11 = Unsqueeze (s11, two)
  corners = Concat <axis = 2> (c00, c01, c10, c11)
  between = MatMul (corners, weights)
  compared = ArgMax <axis = 1, keepdims = 0> (between)
  compared_labels = Cast <to = 2> (compared)

  count = Shape (w00)
  block_shape = Concat <axis = 0> (count, pixels)
  settled_labels = Cast <to = 2> (w00)
  settled_column = Unsqueeze (settled_labels, three)
  filled = Expand (settled_column, block_shape)
  blocks = ScatterND (filled, at00, compared_labels)

  square_shape = Concat <axis = 0> (count, block)
  squares = Reshape (blocks, square_shape)
  in_rows = Transpose <perm = [0, 1, 3, 2, 4]> (squares)
  batch = Slice (count, zero, one)
  cells = Slice (count, one, three)
  sides = Mul (cells, eight)
  frame_shape = Concat <axis = 0> (batch, sides)
  frame = Reshape (in_rows, frame_shape)
  labels = Slice (frame, margin, all_but_margin, axes)
}
"""
"""Between four neighbouring scores lie 8 x 8 pixels, four more around the frame's outermost scores."""


def label_by_cell(model: ModelProto) -> bool:
    """Rewrite a graph, in place, to give the same labels without computing every class at every pixel.

    The last operators of a deploy graph resize the scores by 8, half-pixel and linearly, and take the
    best class of each pixel. Every pixel is a weighted mean of the four scores around it, with weights
    that are not negative: where one class is the best at all four, it is the best between them. Such
    cells get this label directly; only the others are interpolated. ``docs/explanation/deploy-graph.md``
    has the proof and the times.

    For runtimes on CPUs only: tensor shapes depend on the content of the frame, which does not suit TensorRT
    and CUDA graphs.

    Returns:
        Whether the graph was rewritten; False where confidence or logits are outputs too, or the upscore
        is learned.
    """
    ends = _ends(model)
    if ends is None:
        return False
    resize, argmax, crops, casts = ends
    cells = _by_cell()
    cells.node[0].input[0] = resize.input[0]
    crops[0].input[0] = cells.output[0].name
    crops[-1].output[0] = "labels"  # they are bytes already
    gone = {node.name for node in (resize, argmax, *crops, *casts)}
    kept = [node for node in model.graph.node if node.name not in gone]
    model.graph.initializer.extend(cells.initializer)
    replace_nodes(model.graph, [*kept, *cells.node, *crops])
    return True


def _by_cell() -> GraphProto:
    """The graph of :data:`_LABELS`, with names that no deploy graph has."""
    onnx = require("onnx", extra="export")
    graph = onnx.parser.parse_graph(_LABELS)
    graph.initializer.append(onnx.numpy_helper.from_array(_weights(), "weights"))
    for node in graph.node:
        node.name = node.output[0]
    prefixed: GraphProto = onnx.compose.add_prefix_graph(graph, "cells.")
    return prefixed


def _ends(model: ModelProto) -> tuple[NodeProto, NodeProto, list[NodeProto], list[NodeProto]] | None:
    """Resize, ArgMax, crops and casts, where the graph ends in them and labels are its only output."""
    if [output.name for output in model.graph.output] != ["labels"]:
        return None
    makers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, list[NodeProto]] = {"Cast": [], "Slice": [], "ArgMax": []}
    node = makers["labels"]
    while node.op_type in found and not found["ArgMax"]:
        found[node.op_type].insert(0, node)
        node = makers[node.input[0]]
    crops = found["Slice"]
    if not found["ArgMax"] or not crops or not _is_resize(model, node):
        return None
    return node, found["ArgMax"][0], crops, found["Cast"]


def _is_resize(model: ModelProto, node: NodeProto) -> bool:
    """Whether it is a linear half-pixel Resize by 8 of height and width, and of nothing else."""
    onnx = require("onnx", extra="export")
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in node.input}
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return (
        node.op_type == "Resize"
        and attributes.get("mode") == b"linear"
        and attributes.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        and len(node.input) == 3
        and np.array_equal(scales.get(node.input[2], ()), [1, 1, _FACTOR, _FACTOR])
    )


def _weights() -> NDArray[np.float32]:
    """Weights of the four corners for the 64 pixels between them, float32 ``[4, 64]``; exact (in 256ths)."""
    near = (np.arange(_FACTOR) + 0.5) / _FACTOR
    along = np.stack([1 - near, near])
    between: NDArray[np.float32] = np.kron(along, along).astype(np.float32)
    return between
