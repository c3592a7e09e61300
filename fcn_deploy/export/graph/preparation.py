"""How frames are prepared, folded into the first convolution: scale and colour order cost nothing then.

A convolution is linear in its input channels, and zeros that pad a frame stay zero when a channel is scaled
or moved. So dividing by the standard deviation, scaling to 0..1 and swapping the colours are done once, in
the weights. The mean stays an operator: frames are padded with zeros after it was subtracted, not before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.export.graph.surgery import (
    PROTO_FLOAT,
    attributes,
    constants,
    names_read,
    replace_nodes,
)
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_CHANNELS = 3
_TO_PLANES = (0, 3, 1, 2)
"""NHWC -> NCHW."""

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Affine:
    """What steps compute of a frame: ``factor * frame[channel] + offset`` for each of three channels."""

    channel: NDArray[np.int64]
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]

    def then(self, node: NodeProto, values: Values) -> _Affine | None:
        """With one more step, which reads these channels; None where it is no step of a preparation."""
        if node.op_type == "Identity":
            return self
        if node.op_type in ("Slice", "Gather"):
            order = _order(node, values)
            if order is None:
                return None
            return _Affine(self.channel[order], self.factor[order], self.offset[order])
        value = _per_channel(node, values)
        if value is None:
            return None
        if node.op_type in ("Add", "Sub"):
            sign = 1 if node.op_type == "Add" else -1
            return _Affine(self.channel, self.factor, self.offset + sign * value)
        if not value.all():
            return None
        factor = value if node.op_type == "Mul" else 1 / value
        return _Affine(self.channel, self.factor * factor, self.offset * factor)

    @property
    def mean(self) -> NDArray[np.float64]:
        """What to subtract from the frame's channels, where scale and order are in the weights."""
        mean = np.empty(_CHANNELS)
        mean[self.channel] = -self.offset / self.factor
        return mean

    def weights(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weights ``[out, 3, h, w]`` that read the frame minus :attr:`mean` in its own channel order."""
        folded = np.empty(values.shape)
        folded[:, self.channel] = values * self.factor.reshape(1, -1, 1, 1)
        return folded.astype(np.float32)


@dataclass(frozen=True)
class _FoldedSteps:
    """The steps of a graph between the frame's planes and the first convolution."""

    planes: str
    """The tensor that they begin with, float32 ``[N, 3, H, W]``."""
    steps: list[NodeProto]
    affine: _Affine
    convolution: NodeProto
    """What reads the last of them, or the Pad behind it."""
    weights: TensorProto


def fold_preparation(model: ModelProto) -> bool:
    """Move scales and a change of colour order from the input into the first convolution, in place.

    The graph is in normal form: its constants are initializers. It begins with Cast to float32 and Transpose
    to NCHW. The steps behind them may be Sub, Add, Div and Mul by constants, Slice or Gather that reorder the
    channels, and Identity; in front of the convolution there may be a Pad with zeros. One Sub of the mean
    stays of them, where the mean is not 0. The result is exact up to the rounding of the weights to float32.

    Args:
        model: a graph whose first input is uint8 ``[N, H, W, 3]``; not larger than memory allows twice.

    Returns:
        Whether something was folded. False, and the graph unchanged, where there is nothing to fold, a step
        has another reader than the next one, or the convolution is grouped or its weights are not float32
        constants.
    """
    found = _find(model)
    if found is None:
        return False
    onnx = require("onnx", extra="export")
    weights = onnx.numpy_helper.to_array(found.weights)
    folded = found.affine.weights(weights)
    if np.array_equal(folded, weights):
        return False
    _fold(model.graph, found, folded)
    return True


def _find(model: ModelProto) -> _FoldedSteps | None:
    graph = model.graph
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in names_read(node) if node.op_type != "Shape" else ():  # sizes stay what they are
            readers[name].append(node)
    outputs = {output.name for output in graph.output}
    values = constants(model)

    def only_reader(name: str) -> NodeProto | None:
        return readers[name][0] if len(readers[name]) == 1 and name not in outputs else None

    planes = _planes(graph, readers)
    if planes is None:
        return None
    steps: list[NodeProto] = []
    affine = _Affine(np.arange(_CHANNELS), np.ones(_CHANNELS), np.zeros(_CHANNELS))
    reader = only_reader(planes)
    while reader is not None and (after := affine.then(reader, values)) is not None:
        steps.append(reader)
        affine, reader = after, only_reader(reader.output[0])
    convolution = reader
    if reader is not None and reader.op_type == "Pad" and _pads_with_zeros(reader, values):
        convolution = only_reader(reader.output[0])
    if convolution is None or convolution.op_type != "Conv" or not steps:
        return None
    weights = next((t for t in graph.initializer if t.name == convolution.input[1]), None)
    if weights is None or weights.data_type != PROTO_FLOAT or weights.dims[1] != _CHANNELS:
        return None  # grouped, fp16, or INT8 behind DequantizeLinear
    return _FoldedSteps(planes, steps, affine, convolution, weights)


def _planes(graph: GraphProto, readers: Mapping[str, list[NodeProto]]) -> str | None:
    """The float32 ``[N, 3, H, W]`` tensor that Cast and Transpose make of the input."""
    casts = [node for node in readers[graph.input[0].name] if node.op_type == "Cast"]
    if len(casts) != 1 or attributes(casts[0])["to"] != PROTO_FLOAT:
        return None
    behind = readers[casts[0].output[0]]
    if len(behind) != 1 or behind[0].op_type != "Transpose":
        return None
    perm = attributes(behind[0]).get("perm")
    return behind[0].output[0] if perm is not None and tuple(perm) == _TO_PLANES else None


def _order(node: NodeProto, values: Values) -> NDArray[np.int64] | None:
    """The channels that a Slice or Gather takes, where it reorders all three and does nothing else."""
    arguments = [values.get(name) for name in node.input[1:]]
    if any(value is None for value in arguments):
        return None
    order = np.empty(0, np.int64)
    if node.op_type == "Gather" and attributes(node).get("axis", 0) == 1:
        order = np.asarray(arguments[0])
    elif node.op_type == "Slice" and len(arguments) == 4 and np.array_equal(arguments[2], [1]):  # type: ignore[arg-type]
        start, end, _, step = (int(np.ravel(value)[0]) for value in arguments)  # type: ignore[arg-type]
        order = np.arange(_CHANNELS)[start:end:step]
    complete = order.shape == (_CHANNELS,) and sorted(order % _CHANNELS) == list(range(_CHANNELS))
    return order % _CHANNELS if complete else None


def _per_channel(node: NodeProto, values: Values) -> NDArray[np.float64] | None:
    """The constant of an arithmetic step as one number a channel; None where it is something else."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or node.input[0] in values:
        return None
    value = values.get(node.input[1])
    try:
        spread = None if value is None else np.broadcast_to(value, (1, _CHANNELS, 1, 1))
    except ValueError:  # it differs from pixel to pixel
        return None
    if spread is None or not np.isfinite(spread).all():
        return None
    return spread.astype(np.float64).ravel()


def _pads_with_zeros(node: NodeProto, values: Values) -> bool:
    value = values.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    mode = attributes(node).get("mode", b"constant")
    return bool(mode == b"constant" and value is not None and not np.any(value))


def _fold(graph: GraphProto, found: _FoldedSteps, weights: NDArray[np.float32]) -> None:
    onnx = require("onnx", extra="export")
    nodes = list(graph.node)
    shared = sum(found.weights.name in names_read(node) for node in nodes) > 1
    name = f"{found.weights.name}.prepared" if shared else found.weights.name
    tensor = onnx.numpy_helper.from_array(weights, name)
    if shared:
        graph.initializer.append(tensor)
        found.convolution.input[1] = name
    else:
        found.weights.CopyFrom(tensor)

    source, gone = found.planes, {node.output[0] for node in found.steps}
    kept = [node for node in nodes if node.output[0] not in gone]
    mean = found.affine.mean.astype(np.float32)
    if mean.any():
        source = found.steps[-1].output[0]
        graph.initializer.append(
            onnx.numpy_helper.from_array(mean.reshape(1, _CHANNELS, 1, 1), f"{source}.mean")
        )
        place = next(i for i, node in enumerate(kept) if found.planes in node.output) + 1
        named = next((node.name for node in found.steps if node.op_type == "Sub"), "") or f"{source}.sub"
        kept.insert(place, onnx.helper.make_node("Sub", [found.planes, f"{source}.mean"], [source], named))
    for node in kept:
        for i, read in enumerate(node.input):
            node.input[i] = source if read in gone else read
    replace_nodes(graph, kept)
