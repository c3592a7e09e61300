"""A foreign network as a deploy graph: bytes of a camera in front of it, labels behind it.

The operators in front and behind are those of the deploy graph of :mod:`fcn_deploy.model.deploy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import DEPLOY, INPUT
from fcn_deploy.export.graph.foreign import make_room, rename
from fcn_deploy.export.graph.opset import opset_of
from fcn_deploy.export.graph.preparation import fold_preparation
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF, attributes_of
from fcn_deploy.lazy import require
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

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
    before, after = _Before(model, port, spec, swap), _After(model, answer, spec)
    front, back = before.build(), after.build()
    made = {name for node in (*front, *back) for name in (*node.output, node.name)}
    made |= {tensor.name for part in (before, after) for tensor in part.tensors}
    make_room(graph, {INPUT, _PREPARED, _ANSWER, *made})
    rename(graph, {graph.input[0].name: _PREPARED, graph.output[0].name: _ANSWER})
    body = list(graph.node)
    if port.channels_last:
        front, body = _without_transposes(front, body)
    _declare(graph, spec)
    del graph.node[:]
    graph.node.extend([*front, *body, *back])
    graph.initializer.extend([*before.tensors, *after.tensors])
    if not port.half:
        fold_preparation(model)


class _Part:
    """Nodes and constants that are made one after another; a node is named after its output."""

    prefix: str

    def __init__(self, model: ModelProto, spec: ModelSpec) -> None:
        self.onnx = require("onnx", extra="export")
        self.opset, self.spec = opset_of(model), spec
        self.nodes: list[NodeProto] = []
        self.tensors: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node; the name of its output, which the prefix is put in front of."""
        output = name if name in (_PREPARED, *DEPLOY.outputs) else f"{self.prefix}.{name}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, value: NDArray[Any], name: str) -> str:
        """Append an initializer; its name."""
        self.tensors.append(self.onnx.numpy_helper.from_array(value, f"{self.prefix}.{name}"))
        return str(self.tensors[-1].name)

    def integers(self, name: str, *values: int) -> str:
        return self.constant(np.array(values, np.int64), name)

    def length_of(self, tensor: str, axes: Sequence[int], name: str) -> str:
        """The lengths of consecutive axes of a tensor, int64 ``[len(axes)]``."""
        if self.opset >= 15:
            return self.node("Shape", [tensor], name, start=axes[0], end=axes[-1] + 1)
        whole = self.node("Shape", [tensor], f"{name}.shape")
        return self.node("Gather", [whole, self.integers(f"{name}.axes", *axes)], name, axis=0)

    def frame_size(self) -> str:
        """Height and width of the frame, int64 ``[2]``."""
        _, height, width = self.spec.fixed_shape
        if height is not None and width is not None:
            return self.integers("size", height, width)
        return self.length_of(INPUT, (1, 2), "size")

    def padded_size(self, size: str) -> str:
        """Height and width raised to the size multiple, int64 ``[2]``."""
        multiple = self.spec.size_multiple
        if multiple == 1:
            return size
        more = self.node("Add", [size, self.integers("multiple.less_one", multiple - 1)], "size.more")
        unit = self.integers("multiple", multiple)
        blocks = self.node("Div", [more, unit], "size.blocks")
        return self.node("Mul", [blocks, unit], "size.padded")


class _Before(_Part):
    """From uint8 frames to what the network reads."""

    prefix = "prepare"

    def __init__(self, model: ModelProto, port: InputPort, spec: ModelSpec, swap: bool) -> None:
        super().__init__(model, spec)
        self.port, self.swap = port, swap

    def build(self) -> list[NodeProto]:
        # TensorRT takes a uint8 input through Cast only.
        last = self.node("Cast", [INPUT], "float", to=PROTO_FLOAT)
        last = self.node("Transpose", [last], "planes", perm=_TO_PLANES)
        if self.swap:
            last = self.node("Gather", [last, self.integers("order", 2, 1, 0)], "swapped", axis=1)
        last = self._with_channels("Sub", last, self.spec.mean, 0.0, "centred")
        last = self._with_channels("Div", last, self.spec.std, 1.0, "scaled")
        if self.port.half:
            last = self.node("Cast", [last], "half", to=PROTO_HALF)
        if self.spec.size_multiple > 1:
            last = self._padded(last)
        if self.port.channels_last:
            last = self.node("Transpose", [last], "pixels", perm=_TO_PIXELS)
        self.nodes[-1].output[0] = _PREPARED
        return self.nodes

    def _with_channels(
        self, kind: str, source: str, values: Sequence[float], nothing: float, name: str
    ) -> str:
        """An operator with one number a channel, unless it would change nothing."""
        if all(value == nothing for value in values):
            return source
        bgr = (self.spec.color_order == "bgr") != self.swap
        ordered = np.array(values if bgr else values[::-1], np.float32).reshape(1, 3, 1, 1)
        return self.node(kind, [source, self.constant(ordered, f"{name}.by")], name)

    def _padded(self, source: str) -> str:
        """Zeros below and to the right, up to the size multiple."""
        size = self.frame_size()
        missing = self.node("Sub", [self.padded_size(size), size], "missing")
        none = self.integers("nothing", *[0] * 6)
        pads = self.node("Concat", [none, missing], "pads", axis=0)
        return self.node("Pad", [source, pads], "padded")


class _After(_Part):
    """From what the network gives to labels."""

    prefix = "label"

    def __init__(self, model: ModelProto, answer: Answer, spec: ModelSpec) -> None:
        super().__init__(model, spec)
        self.answer = answer
        self.kind = model.graph.output[0].type.tensor_type.elem_type
        self.wanted = spec.outputs

    def build(self) -> list[NodeProto]:
        self.crops = self.spec.size_multiple > 1
        if self.answer.kind == "map":
            labels = self._labels_of_map()
        else:
            labels = self._labels_of_scores()
        if self.kind_of_labels != PROTO_FLOAT:
            labels = self.node("Cast", [labels], "float", to=PROTO_FLOAT)
        # TensorRT makes uint8 only from float.
        self.node("Cast", [labels], "labels", to=self.onnx.TensorProto.UINT8)
        return self.nodes

    def _labels_of_scores(self) -> str:
        scores = self._scores()
        late = self.crops and "logits" not in self.wanted  # labels are fewer bytes than the scores
        if "logits" in self.wanted:
            scores = self._cropped(scores, "logits", (2, 3)) if self.crops else scores
            if scores != "logits":
                scores = self.node("Identity", [scores], "logits")
        winners = self.node("ArgMax", [scores], "winners", axis=1, keepdims=0)
        self.kind_of_labels = self.onnx.TensorProto.INT64
        if "confidence" in self.wanted:
            self._confidence(scores, late)
        return self._cropped(winners, "cropped", (1, 2)) if late else winners

    def _scores(self) -> str:
        """float32 ``[N, classes, H, W]`` that covers the frame from its first row and column on."""
        scores = _ANSWER
        if self.kind == PROTO_HALF:
            scores = self.node("Cast", [scores], "answer.float", to=PROTO_FLOAT)
        if self.answer.axis == 3:
            scores = self.node("Transpose", [scores], "planes", perm=_TO_PLANES)
        if self.answer.axis is None:
            scores = self.node("Unsqueeze", [scores, self.integers("channel", 1)], "planes")
        if self.answer.smaller:
            scores = self._resized(scores)
        if self.answer.kind == "channel":
            # Class 0 has the score of the threshold, so that the larger of the two decides.
            bound = self.constant(np.array(self.answer.bound, np.float32), "threshold")
            pads = self.integers("first_channel", 0, 1, *[0] * 6)
            scores = self.node("Pad", [scores, pads, bound], "both")
        return scores

    def _resized(self, scores: str) -> str:
        """Bilinearly to the size of the padded frame."""
        stride = self.answer.stride
        assert stride is not None, "a smaller answer has a stated stride"
        if self.spec.size_multiple % stride == 0 and not self.answer.align_corners:
            scales = self.constant(np.array([1, 1, stride, stride], np.float32), "scales")
            return self.node("Resize", [scores, "", scales], "resized", mode="linear")
        mode = "align_corners" if self.answer.align_corners else "half_pixel"
        channels = self.integers("channels", 1 if self.answer.channels is None else self.answer.channels)
        sizes = self._sizes(channels)
        return self.node(
            "Resize", [scores, "", "", sizes], "resized", mode="linear", coordinate_transformation_mode=mode
        )

    def _sizes(self, channels: str) -> str:
        batch = self.length_of(INPUT, (0,), "batch")
        padded = self.padded_size(self.frame_size())
        return self.node("Concat", [batch, channels, padded], "sizes", axis=0)

    def _confidence(self, scores: str, late: bool) -> None:
        """The winner's probability, float32 ``[N, H, W]``."""
        name = "confidence" if not late else "probability"
        if self.answer.kind == "channel":
            found = self._confidence_of_channel(scores, name)
        else:
            shares = scores
            if not self.answer.probabilities:
                shares = self.node("Softmax", [scores], "shares", axis=1)
            if self.opset >= 18:
                axis = self.integers("classes", 1)
                found = self.node("ReduceMax", [shares, axis], name, keepdims=0)
            else:
                found = self.node("ReduceMax", [shares], name, axes=[1], keepdims=0)
        if late:
            self._cropped(found, "confidence", (1, 2))

    def _confidence_of_channel(self, scores: str, name: str) -> str:
        """The second channel's probability where it wins, else what is left to 1."""
        one = self.integers("one", 1)
        found = self.node("Gather", [scores, self.integers("second", 1)], "own", axis=1)
        if not self.answer.probabilities:
            found = self.node("Sigmoid", [found], "own.share")
        rest = self.node("Sub", [self.constant(np.array(1, np.float32), "whole"), found], "own.rest")
        above = self.node("ArgMax", [scores], "own.winners", axis=1, keepdims=1)
        wins = self.node("Cast", [above], "own.wins", to=self.onnx.TensorProto.BOOL)
        both = self.node("Where", [wins, found, rest], "own.either")
        return self.node("Squeeze", [both, one], name)

    def _labels_of_map(self) -> str:
        """float32 ``[N, H, W]``."""
        labels = _ANSWER
        if self.kind != PROTO_FLOAT:
            labels = self.node("Cast", [labels], "answer.float", to=PROTO_FLOAT)
        if self.answer.smaller:
            labels = self._repeated(labels)
        elif self.answer.axis is not None:
            labels = self.node("Squeeze", [labels, self.integers("axis", self.answer.axis)], "map")
        self.kind_of_labels = PROTO_FLOAT
        return self._cropped(labels, "cropped", (1, 2)) if self.crops else labels

    def _repeated(self, labels: str) -> str:
        """A map at the size of the padded frame: each label is repeated."""
        if self.answer.axis is None:
            labels = self.node("Unsqueeze", [labels, self.integers("axis", 1)], "planes")
        elif self.answer.axis == 3:
            labels = self.node("Transpose", [labels], "planes", perm=_TO_PLANES)
        sizes = self._sizes(self.integers("channels", 1))
        large = self.node(
            "Resize",
            [labels, "", "", sizes],
            "resized",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return self.node("Squeeze", [large, self.integers("channel", 1)], "map")

    def _cropped(self, source: str, name: str, axes: tuple[int, int]) -> str:
        """Without the padding below and to the right."""
        inputs = [source, self.integers(f"{name}.starts", 0, 0), self.frame_size()]
        return self.node("Slice", [*inputs, self.integers(f"{name}.axes", *axes)], name)


def _without_transposes(
    front: list[NodeProto], body: list[NodeProto]
) -> tuple[list[NodeProto], list[NodeProto]]:
    """Without the Transpose to ``[N, H, W, 3]`` where the network only takes it back, as converted ones do."""
    readers = [node for node in body if _PREPARED in node.input]
    if not all(n.op_type == "Transpose" and attributes_of(n).get("perm") == _TO_PLANES for n in readers):
        return front, body
    planes = front[-1].input[0]
    back = {node.output[0] for node in readers}
    kept = [node for node in body if node.output[0] not in back]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = planes if name in back else name
    return front[:-1], kept


@dataclass(frozen=True)
class _Axes:
    """Lengths by axis name, or the name where it varies."""

    lengths: dict[str, int | str]

    def of(self, axes: Sequence[str | int]) -> list[int | str]:
        return [axis if isinstance(axis, int) else self.lengths[axis] for axis in axes]


def _declare(graph: GraphProto, spec: ModelSpec) -> None:
    """Inputs and outputs as the contract has them."""
    onnx = require("onnx", extra="export")
    named = ("batch", "height", "width")
    lengths = {name: fixed or name for name, fixed in zip(named, spec.fixed_shape, strict=True)}
    axes = _Axes({**lengths, "classes": spec.num_classes})
    for values, tensors in (
        (graph.input, DEPLOY.inputs),
        (graph.output, {name: DEPLOY.outputs[name] for name in spec.outputs}),
    ):
        del values[:]
        values.extend(
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), axes.of(tensor.axes)
            )
            for name, tensor in tensors.items()
        )
