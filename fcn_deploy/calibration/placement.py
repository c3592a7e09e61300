"""Where QuantizeLinear and DequantizeLinear are inserted: the Q/DQ graph for one target.

A "pair" is a QuantizeLinear with the DequantizeLinear that follows it. Its place decides what INT8 costs:
between a convolution and its ReLU, half of the levels are spent on negative numbers that the ReLU sets to
zero; behind the ReLU all of them are used. Beyond that the two targets differ, as their kernels do:

- ``tensorrt``: int8 and symmetric, a pair only at the inputs of quantised convolutions. TensorRT fuses
  convolution, bias, ReLU and the quantisation behind it by itself, moves the pair across max pooling,
  and keeps the bias in float. Score layers read what was not quantised.
- ``cpu``: unsigned, so that all 256 levels lie above zero; a pair behind the ReLU and again behind max
  pooling, so that both run on integers; the bias an integer too. Weights have 7 bits unless the CPU
  has VNNI: the older multiply-add instruction saturates at 16 bits, without any error. Labels are taken by
  cell (:mod:`fcn_deploy.export.graph.cells`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import CalibrationError
from fcn_deploy.export.graph.cells import label_by_cell
from fcn_deploy.export.graph.surgery import replace_nodes
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Range = tuple[float, float]
"""Lowest and highest value that an activation is to hold."""


@dataclass(frozen=True)
class QuantizationTarget:
    """What the kernels of one target need in a Q/DQ graph."""

    name: str
    unsigned: bool
    """Whether activations are uint8 with a zero point, or int8 around zero."""
    weight_limit: int
    """The largest quantised weight: 127, or 64 where sums of two products must fit 16 bits."""
    integer_bias: bool
    quantised_outputs: bool
    """Whether the outputs of quantised convolutions are quantised too, pooling included."""
    labels_by_cell: bool
    """Whether classes are compared only where they meet: work that depends on the frame."""

    @property
    def levels(self) -> int:
        """Steps above zero that a ReLU's output is spread over."""
        return 256 if self.unsigned else 128


TARGETS = ("tensorrt", "cpu")


def target_of(name: str, *, assume_vnni: bool = False) -> QuantizationTarget:
    """The target called ``tensorrt`` or ``cpu``; ``assume_vnni`` gives the CPU's weights 8 bits."""
    if name == "tensorrt":
        return QuantizationTarget("tensorrt", False, 127, False, False, False)
    return QuantizationTarget("cpu", True, 127 if assume_vnni else 64, True, True, True)


def layer_inputs(model: ModelProto) -> dict[str, str]:
    """Each convolution and the tensor that it reads, in graph order."""
    return {node.name: node.input[0] for node in model.graph.node if node.op_type == "Conv"}


def default_layers(model: ModelProto) -> list[str]:
    """The convolutions quantised by default: all but the score layers, whose logits decide ties."""
    return [name for name in layer_inputs(model) if not name.startswith("score_")]


def place(
    model: ModelProto, ranges: Mapping[str, Range], layers: Collection[str], target: QuantizationTarget
) -> ModelProto:
    """A copy in which ``layers`` run on integers.

    Args:
        model: a deploy graph in fp32, or in fp16 as ``export.precision.to_fp16`` makes it.
        ranges: the range of each convolution's input, by the convolution's name.
        layers: names of convolutions.
        target: one of :func:`target_of`.

    Raises:
        CalibrationError: a layer is not in the graph, or its range is missing.
    """
    onnx = require("onnx", extra="export")
    known = layer_inputs(model)
    if unknown := sorted(set(layers) - set(known)):
        raise CalibrationError(f"there is no convolution {unknown[0]}; choose from {', '.join(known)}")
    if missing := sorted(set(known) - set(ranges)):
        raise CalibrationError(f"there is no range for the input of {missing[0]}; calibrate again")
    model = copy.deepcopy(model)
    _Placement(model, ranges, set(layers), target).run()
    if target.labels_by_cell:
        label_by_cell(model)
    onnx.checker.check_model(model)
    return model


class _Placement:
    """One pass over the nodes: each is appended after the pairs that it needs."""

    def __init__(
        self, model: ModelProto, ranges: Mapping[str, Range], layers: set[str], target: QuantizationTarget
    ) -> None:
        self.onnx = require("onnx", extra="export")
        self.graph, self.layers, self.target = model.graph, layers, target
        self.nodes: list[NodeProto] = []
        self.weights = {t.name: t for t in model.graph.initializer}
        self.half = any(t.data_type == self.onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
        self.made_by = {name: node for node in model.graph.node for name in node.output}
        self.pairs: dict[str, str] = {}
        """Tensor -> what its consumers read in its place."""
        self.scales: dict[str, tuple[np.floating[Any], int]] = {}
        """Tensor with a pair -> its scale and zero point."""
        self.wanted = self._wanted(ranges)

    def _wanted(self, ranges: Mapping[str, Range]) -> dict[str, Range]:
        """The tensors that get a pair, with their ranges."""
        wanted: dict[str, Range] = {}
        for node in self.graph.node:
            if node.op_type != "Conv":
                continue
            source = node.input[0]
            if node.name in self.layers:
                wanted[source] = ranges[node.name]
            if self.target.quantised_outputs:
                maker = self._convolution_behind(source)
                if node.name in self.layers or (maker is not None and maker in self.layers):
                    wanted[source] = ranges[node.name]
                    pool = self.made_by.get(source)
                    if pool is not None and pool.op_type == "MaxPool":
                        # Clipping commutes with a maximum, so both sides of the pooling share a range.
                        wanted[pool.input[0]] = ranges[node.name]
        return wanted

    def _convolution_behind(self, tensor: str) -> str | None:
        """The convolution that a tensor comes from through ReLU and pooling."""
        node = self.made_by.get(tensor)
        while node is not None and node.op_type in ("Relu", "MaxPool"):
            node = self.made_by.get(node.input[0])
        return node.name if node is not None and node.op_type == "Conv" else None

    def run(self) -> None:
        original = list(self.graph.node)
        for node in original:
            quantised = node.op_type == "Conv" and node.name in self.layers
            for i, name in enumerate(node.input):
                if name in self.wanted and (quantised or self.target.quantised_outputs):
                    node.input[i] = self._pair(name)
            if quantised:
                self._quantise_weights(node)
            self.nodes.append(node)
        replace_nodes(self.graph, self.nodes)

    def _pair(self, tensor: str) -> str:
        """Q and DQ behind a tensor, once; the name of the dequantised one."""
        if tensor not in self.pairs:
            scale, zero = self._scale(self.wanted[tensor])
            self.scales[tensor] = scale, zero
            kind = np.uint8 if self.target.unsigned else np.int8
            inputs = [
                self._constant(f"{tensor}.scale", np.asarray(scale)),
                self._constant(f"{tensor}.zero_point", np.asarray(zero, kind)),
            ]
            self._node("QuantizeLinear", [tensor, *inputs], f"{tensor}.q")
            self._node("DequantizeLinear", [f"{tensor}.q", *inputs], f"{tensor}.dq")
            self.pairs[tensor] = f"{tensor}.dq"
        return self.pairs[tensor]

    def _scale(self, limits: Range) -> tuple[np.floating[Any], int]:
        low, high = limits
        if not self.target.unsigned:
            return self._stored(max(-low, high) / 127), 0
        # A ReLU's range starts at 0, which makes the zero point 0 and lets the ReLU be fused.
        scale = self._stored((high - low) / 255)
        return scale, round(-low / float(scale))

    def _stored(self, scale: float) -> np.floating[Any]:
        """A scale in the graph's float type, never zero: a channel may be dead."""
        kind = np.float16 if self.half else np.float32
        return kind(max(scale, float(np.finfo(kind).smallest_subnormal) if self.half else 1e-12))

    def _quantise_weights(self, node: NodeProto) -> None:
        """Per output channel, symmetric; the scales are rounded first, so that they are what divides."""
        name = node.input[1]
        values = self.onnx.numpy_helper.to_array(self.weights[name]).astype(np.float32)
        limit = self.target.weight_limit
        peaks = np.abs(values).reshape(len(values), -1).max(1)
        scales = np.array([self._stored(scale) for scale in np.maximum(peaks / limit, self._finest(node))])
        steps = values / scales.astype(np.float32).reshape(-1, 1, 1, 1)
        integers = np.clip(np.rint(steps), -limit, limit).astype(np.int8)
        inputs = [
            self._constant(f"{name}.int8", integers),
            self._constant(f"{name}.scale", scales),
            self._constant(f"{name}.zero_point", np.zeros(len(scales), np.int8)),
        ]
        self._node("DequantizeLinear", inputs, f"{name}.dq", axis=0)
        source = node.input[0].removesuffix(".dq")
        node.input[1] = f"{name}.dq"
        if self.target.integer_bias and len(node.input) > 2:
            node.input[2] = self._integer_bias(node.input[2], scales * np.float32(self.scales[source][0]))

    def _finest(self, node: NodeProto) -> NDArray[np.float64] | float:
        """The weight scale of each channel below which its bias leaves 32 bits; dead ones have a bias too."""
        if not self.target.integer_bias or len(node.input) < 3:
            return 0.0
        bias = self.onnx.numpy_helper.to_array(self.weights[node.input[2]]).astype(np.float64)
        scale = float(self.scales[node.input[0].removesuffix(".dq")][0])
        finest: NDArray[np.float64] = np.abs(bias) / (scale * 2**30)
        return finest

    def _integer_bias(self, name: str, scales: NDArray[np.float32]) -> str:
        values = self.onnx.numpy_helper.to_array(self.weights[name])
        limit = 2**31 - 1
        integers = np.clip(np.rint(values / scales.astype(np.float64)), -limit, limit).astype(np.int32)
        inputs = [
            self._constant(f"{name}.int32", integers),
            self._constant(f"{name}.scale", scales.astype(np.float32)),
            self._constant(f"{name}.zero_point", np.zeros(len(scales), np.int32)),
        ]
        return self._node("DequantizeLinear", inputs, f"{name}.dq", axis=0)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
