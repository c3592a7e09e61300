"""What each convolution is for, read off the graph's topology: nothing here knows a layer's name.

First convolutions read the prepared frame, so the range of their input is known. Score layers give the
logits: only upsampling, additions and cropping stand between them and the classes. Pooled layers see one
pixel, the mean of the whole map, so what they cost does not grow with the frame.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fcn_deploy.contract import INPUT
from fcn_deploy.export.graph.surgery import deciding_node, makers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")

_BEHIND_SCORES = {
    *("ConvTranspose", "Resize", "Upsample", "DepthToSpace", "Add", "Sub", "Mul", "Div", "Concat"),
    *("Slice", "Pad", "Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Gather"),
    *("ArgMax", "Softmax", "LogSoftmax", "Sigmoid", "ReduceMax", "Greater", "GreaterOrEqual", "Where"),
}
"""What may stand between a score layer and the graph's outputs."""

_MANY_INPUTS = ("Add", "Sub", "Mul", "Div", "Concat", "Where", "Greater", "GreaterOrEqual")
"""Operators all of whose inputs are data; the others have one, and weights, sizes or indices beside it."""

_ONE_PIXEL = {
    *("Conv", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu", "Tanh"),
    *("BatchNormalization", "Identity", "Dropout", "Cast", "Add", "Sub", "Mul", "Div", "Concat"),
}
"""Operators that make one pixel of one pixel, where all that they read is one."""


def data_inputs(node: NodeProto) -> list[str]:
    """The tensors that a node computes with, without weights, sizes and indices."""
    return [name for name in (node.input if node.op_type in _MANY_INPUTS else node.input[:1]) if name]


def reached_from(model: ModelProto, tensors: Collection[str]) -> set[str]:
    """These tensors and all that are computed from their values; a shape is not computed from values."""
    found = set(tensors)
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def pixel_tensors(model: ModelProto) -> set[str]:
    """The tensors computed from the frame's values; what is computed from its size is not among them."""
    return reached_from(model, [INPUT])


def network_tensors(model: ModelProto) -> set[str]:
    """The tensors from the output of the first layers with weights on: all pixels but the preparation."""
    layers = [name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.output]
    return reached_from(model, layers) & pixel_tensors(model)


def first_convolutions(model: ModelProto) -> list[str]:
    """The convolutions that read the prepared frame, in graph order."""
    prepared = pixel_tensors(model) - network_tensors(model)
    return [n.name for n in model.graph.node if n.op_type == "Conv" and n.input[0] in prepared]


def score_layers(model: ModelProto) -> list[str]:
    """The convolutions that give the logits, or what is added up or upsampled to them, in graph order."""
    made_by = makers(model)
    waiting, seen, found = [output.name for output in model.graph.output], set(), set()
    while waiting:
        name = waiting.pop()
        node = made_by.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Conv":
            found.add(node.name)
        elif node.op_type in _BEHIND_SCORES:
            waiting += data_inputs(node)
    return [node.name for node in model.graph.node if node.op_type == "Conv" and node.name in found]


def pooled_layers(model: ModelProto) -> list[str]:
    """The convolutions that see one pixel, behind global pooling, in graph order."""
    constants = {t.name for t in model.graph.initializer}
    single: set[str] = set()
    for node in model.graph.node:
        inputs = [name for name in data_inputs(node) if name not in constants]
        follows = node.op_type in _ONE_PIXEL and inputs and single.issuperset(inputs)
        if node.op_type in ("GlobalAveragePool", "GlobalMaxPool") or follows:
            single.update(node.output)
    return [n.name for n in model.graph.node if n.op_type == "Conv" and n.input[0] in single]


def logits_of(model: ModelProto) -> str | None:
    """The tensor ``[N, classes, H, W]`` whose best class is the label; None where no ArgMax takes it."""
    node = deciding_node(model, ("Cast", "Slice", "Identity", "Squeeze", "Reshape", "Resize"))
    return None if node is None else str(node.input[0])
