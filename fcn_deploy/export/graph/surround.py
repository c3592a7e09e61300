"""A foreign network as a deploy graph: bytes of a camera in front of it, labels behind it.

The operators in front and behind are those of the deploy graph of :mod:`fcn_deploy.model.deploy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import DEPLOY, INPUT
from fcn_deploy.export.graph.foreign import make_room
from fcn_deploy.export.graph.opset import opset_of
from fcn_deploy.export.graph.preparation import fold_preparation
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF, attributes, rename
from fcn_deploy.lazy import require
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from fcn_deploy.export.answer import Answer
    from fcn_deploy.export.original import InputPort

_PREPARED, _ANSWER = "prepared", "answer"
"""Between the operators here and the network: what it reads, and what it gives."""
_TO_PLANES, _TO_PIXELS = [0, 3, 1, 2], [0, 2, 3, 1]


def surround(model: ModelProto, port: InputPort, answer: Answer, spec: ModelSpec, swap: bool) -> None:
    """Make a deploy graph of a network, in place.

    Args:
        model: the network, as ``foreign.simplify`` leaves it: its one output is the answer's tensor.
        port: its input.
        answer: what it gives.
        spec: mean, std, size multiple, fixed shape and outputs.
        swap: whether the network reads the reverse of the frames' channel order.
    """
    graph = model.graph
    ours = _Nodes(opset_of(model))
    front = _Before(ours, port, spec, swap).build()
    back = _After(ours, answer, spec, graph.output[0].type.tensor_type.elem_type).build()
    make_room(graph, {INPUT, _PREPARED, _ANSWER, *ours.names()})
    rename(graph, {graph.input[0].name: _PREPARED, graph.output[0].name: _ANSWER})
    body = list(graph.node)
    if port.channels_last:
        front, body = _without_transposes(front, body)
    declare(graph, spec)
    del graph.node[:]
    graph.node.extend([*front, *body, *back])
    graph.initializer.extend(ours.tensors.values())
    if not port.half:
        fold_preparation(model)


class _Nodes:
    """Nodes and constants by name, each made once; a node is named after its output."""

    def __init__(self, opset: int) -> None:
        self.onnx = require("onnx", extra="export")
        self.opset = opset
        self.nodes: dict[str, NodeProto] = {}
        self.tensors: dict[str, TensorProto] = {}

    def names(self) -> set[str]:
        return {*self.nodes, *self.tensors}

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        if name not in self.nodes:
            self.nodes[name] = self.onnx.helper.make_node(kind, inputs, [name], name, **attributes)
        return name

    def constant(self, value: NDArray[Any], name: str) -> str:
        """Append an initializer; its name."""
        self.tensors[name] = self.onnx.numpy_helper.from_array(value, name)
        return name

    def integers(self, name: str, *values: int) -> str:
        """A constant int64 ``[len(values)]``."""
        return self.constant(np.array(values, np.int64), name)

    def length_of(self, tensor: str, axes: Sequence[int], name: str) -> str:
        """The lengths of consecutive axes of a tensor, int64 ``[len(axes)]``."""
        if self.opset >= 15:
            return self.node("Shape", [tensor], name, start=axes[0], end=axes[-1] + 1)
        whole = self.node("Shape", [tensor], f"{name}.shape")
        return self.node("Gather", [whole, self.integers(f"{name}.axes", *axes)], name, axis=0)

    def frame_size(self, spec: ModelSpec) -> str:
        """Height and width of the frame, int64 ``[2]``."""
        _, height, width = spec.fixed_shape
        if height is not None and width is not None:
            return self.integers("frame.size", height, width)
        return self.length_of(INPUT, (1, 2), "frame.size")

    def padded_size(self, spec: ModelSpec) -> str:
        """Height and width raised to the size multiple, int64 ``[2]``."""
        size, multiple = self.frame_size(spec), spec.size_multiple
        if multiple == 1:
            return size
        more = self.node("Add", [size, self.integers("frame.less_one", multiple - 1)], "frame.more")
        unit = self.integers("frame.multiple", multiple)
        blocks = self.node("Div", [more, unit], "frame.blocks")
        return self.node("Mul", [blocks, unit], "frame.padded")


class _Before:
    """From uint8 frames to what the network reads."""

    def __init__(self, nodes: _Nodes, port: InputPort, spec: ModelSpec, swap: bool) -> None:
        self.nodes, self.port, self.spec, self.swap = nodes, port, spec, swap

    def build(self) -> list[NodeProto]:
        # TensorRT takes a uint8 input through Cast only.
        add = self.nodes
        last = add.node("Cast", [INPUT], "prepare.float", to=PROTO_FLOAT)
        last = add.node("Transpose", [last], "prepare.planes", perm=_TO_PLANES)
        if self.swap:
            order = add.integers("prepare.order", 2, 1, 0)
            last = add.node("Gather", [last, order], "prepare.swapped", axis=1)
        last = self._with_channels("Sub", last, self.spec.mean, 0.0, "prepare.centred")
        last = self._with_channels("Div", last, self.spec.std, 1.0, "prepare.scaled")
        if self.port.half:
            last = add.node("Cast", [last], "prepare.half", to=PROTO_HALF)
        if self.spec.size_multiple > 1:
            last = self._padded(last)
        if self.port.channels_last:
            last = add.node("Transpose", [last], "prepare.pixels", perm=_TO_PIXELS)
        made = list(add.nodes.values())
        made[-1].output[0] = _PREPARED
        return made

    def _with_channels(
        self, kind: str, source: str, values: Sequence[float], nothing: float, name: str
    ) -> str:
        """An operator with one number a channel, unless it would change nothing."""
        if all(value == nothing for value in values):
            return source
        bgr = (self.spec.color_order == "bgr") != self.swap
        ordered = np.array(values if bgr else values[::-1], np.float32).reshape(1, 3, 1, 1)
        return self.nodes.node(kind, [source, self.nodes.constant(ordered, f"{name}.by")], name)

    def _padded(self, source: str) -> str:
        """Zeros below and to the right, up to the size multiple."""
        add = self.nodes
        sizes = [add.padded_size(self.spec), add.frame_size(self.spec)]
        missing = add.node("Sub", sizes, "frame.missing")
        none = add.integers("frame.nothing", *[0] * 6)
        pads = add.node("Concat", [none, missing], "frame.pads", axis=0)
        return add.node("Pad", [source, pads], "prepare.padded")


class _After:
    """From what the network gives to labels."""

    def __init__(self, nodes: _Nodes, answer: Answer, spec: ModelSpec, kind: int) -> None:
        self.nodes, self.answer, self.spec, self.kind = nodes, answer, spec, kind
        self.front = len(nodes.nodes)
        self.crops = spec.size_multiple > 1

    def build(self) -> list[NodeProto]:
        add = self.nodes
        labels = self._labels_of_map() if self.answer.kind == "map" else self._labels_of_scores()
        # TensorRT makes uint8 only from float.
        add.node("Cast", [labels], "labels", to=add.onnx.TensorProto.UINT8)
        return list(add.nodes.values())[self.front :]

    def _labels_of_scores(self) -> str:
        """float32 ``[N, H, W]``; makes logits and confidence on the way, where they are wanted."""
        add, wanted = self.nodes, self.spec.outputs
        scores = self._scores()
        late = self.crops and "logits" not in wanted  # labels are fewer bytes than the scores
        if "logits" in wanted and self.crops:
            scores = self._cropped(scores, "logits", (2, 3))
        elif "logits" in wanted:
            scores = add.node("Identity", [scores], "logits")
        winners = add.node("ArgMax", [scores], "label.winners", axis=1, keepdims=0)
        if "confidence" in wanted:
            self._confidence(scores, winners, late)
        labels = self._cropped(winners, "label.cropped", (1, 2)) if late else winners
        return add.node("Cast", [labels], "label.float", to=PROTO_FLOAT)

    def _scores(self) -> str:
        """float32 ``[N, classes, H, W]`` that covers the frame from its first row and column on."""
        add, scores = self.nodes, self._in_float()
        if self.answer.axis == 3:
            scores = add.node("Transpose", [scores], "label.planes", perm=_TO_PLANES)
        if self.answer.axis is None:
            scores = add.node("Unsqueeze", [scores, add.integers("label.channel", 1)], "label.planes")
        if self.answer.smaller:
            scores = self._resized(scores)
        if self.answer.kind == "channel":
            # Class 0 has the score of the threshold, so that the larger of the two decides.
            bound = add.constant(np.array(self.answer.bound, np.float32), "label.threshold")
            pads = add.integers("label.first_channel", 0, 1, *[0] * 6)
            scores = add.node("Pad", [scores, pads, bound], "label.both")
        return scores

    def _in_float(self) -> str:
        if self.kind == PROTO_FLOAT:
            return _ANSWER
        return self.nodes.node("Cast", [_ANSWER], "label.answer", to=PROTO_FLOAT)

    def _resized(self, scores: str) -> str:
        """Bilinearly to the size of the padded frame."""
        add, stride, aligned = self.nodes, self.answer.stride, self.answer.align_corners
        assert stride is not None, "the stride of a smaller answer is stated"
        if self.spec.size_multiple % stride == 0 and not aligned:
            scales = add.constant(np.array([1, 1, stride, stride], np.float32), "label.scales")
            return add.node("Resize", [scores, "", scales], "label.resized", mode="linear")
        return add.node(
            "Resize",
            [scores, "", "", self._sizes(self.answer.channels or 1)],
            "label.resized",
            mode="linear",
            coordinate_transformation_mode="align_corners" if aligned else "half_pixel",
        )

    def _sizes(self, channels: int) -> str:
        """The shape of an answer that covers the padded frame, int64 ``[4]``."""
        add = self.nodes
        parts = [add.length_of(INPUT, (0,), "frame.batch"), add.integers("label.channels", channels)]
        return add.node("Concat", [*parts, add.padded_size(self.spec)], "label.sizes", axis=0)

    def _confidence(self, scores: str, winners: str, late: bool) -> None:
        """The winner's probability, float32 ``[N, H, W]``."""
        add = self.nodes
        name = "label.probability" if late else "confidence"
        if self.answer.kind == "channel":
            self._confidence_of_channel(scores, winners, name)
        else:
            shares = scores
            if not self.answer.probabilities:
                shares = add.node("Softmax", [scores], "label.shares", axis=1)
            if add.opset >= 18:  # the axes became an input
                add.node("ReduceMax", [shares, add.integers("label.classes", 1)], name, keepdims=0)
            else:
                add.node("ReduceMax", [shares], name, axes=[1], keepdims=0)
        if late:
            self._cropped(name, "confidence", (1, 2))

    def _confidence_of_channel(self, scores: str, winners: str, name: str) -> None:
        """The second channel's probability where it wins, else what is left to 1."""
        add = self.nodes
        second = add.constant(np.array(1, np.int64), "label.second")
        share = add.node("Gather", [scores, second], "label.own", axis=1)
        if not self.answer.probabilities:
            share = add.node("Sigmoid", [share], "label.share")
        rest = add.node("Sub", [add.constant(np.array(1, np.float32), "label.whole"), share], "label.rest")
        wins = add.node("Cast", [winners], "label.wins", to=add.onnx.TensorProto.BOOL)
        add.node("Where", [wins, share, rest], name)

    def _labels_of_map(self) -> str:
        """float32 ``[N, H, W]``."""
        add, labels, axis = self.nodes, self._in_float(), self.answer.axis
        if self.answer.smaller:
            labels = self._repeated(labels)
        elif axis is not None:
            labels = add.node("Squeeze", [labels, add.integers("label.channel", axis)], "label.map")
        return self._cropped(labels, "label.cropped", (1, 2)) if self.crops else labels

    def _repeated(self, labels: str) -> str:
        """A map at the size of the padded frame: each label is repeated."""
        add, channel = self.nodes, self.nodes.integers("label.channel", 1)
        if self.answer.axis is None:
            labels = add.node("Unsqueeze", [labels, channel], "label.planes")
        elif self.answer.axis == 3:
            labels = add.node("Transpose", [labels], "label.planes", perm=_TO_PLANES)
        large = add.node(
            "Resize",
            [labels, "", "", self._sizes(1)],
            "label.resized",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return add.node("Squeeze", [large, channel], "label.map")

    def _cropped(self, source: str, name: str, axes: tuple[int, int]) -> str:
        """Without the padding below and to the right."""
        add = self.nodes
        inputs = [source, add.integers("frame.start", 0, 0), add.frame_size(self.spec)]
        return add.node("Slice", [*inputs, add.integers(f"{name}.axes", *axes)], name)


def _without_transposes(
    front: list[NodeProto], body: list[NodeProto]
) -> tuple[list[NodeProto], list[NodeProto]]:
    """Without the Transpose to ``[N, H, W, 3]`` where the network begins by taking it back."""
    readers = [node for node in body if _PREPARED in node.input]
    if not all(n.op_type == "Transpose" and attributes(n).get("perm") == _TO_PLANES for n in readers):
        return front, body
    planes = front[-1].input[0]
    back = {node.output[0] for node in readers}
    kept = [node for node in body if node.output[0] not in back]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = planes if name in back else name
    return front[:-1], kept


def declare(graph: GraphProto, spec: ModelSpec) -> None:
    """Give a graph, in place, the inputs and outputs of the contract, with the lengths that are fixed."""
    onnx = require("onnx", extra="export")
    named = ("batch", "height", "width")
    lengths = {name: fixed or name for name, fixed in zip(named, spec.fixed_shape, strict=True)}
    lengths["classes"] = spec.num_classes
    outputs = {name: DEPLOY.outputs[name] for name in spec.outputs}
    for values, tensors in ((graph.input, DEPLOY.inputs), (graph.output, outputs)):
        del values[:]
        values.extend(
            onnx.helper.make_tensor_value_info(
                name,
                onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)),
                [axis if isinstance(axis, int) else lengths[axis] for axis in tensor.axes],
            )
            for name, tensor in tensors.items()
        )
