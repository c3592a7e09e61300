"""Where QuantizeLinear and DequantizeLinear are inserted: the Q/DQ graph for one target.

A "pair" is a QuantizeLinear with the DequantizeLinear that follows it. Its place decides what INT8 costs:
between a convolution and its ReLU, half of the levels are spent on negative numbers that the ReLU sets to
zero; behind the ReLU all of them are used. Beyond that the two targets differ, as their kernels do:

- ``tensorrt``: int8 and symmetric, a pair at the inputs of quantised convolutions and at the residual operand
  of an addition that follows one. TensorRT fuses convolution, bias, addition, activation and the
  quantisation behind it by itself, moves the pair across max pooling and concatenation, and keeps the bias
  in float. Score layers read what was not quantised.
- ``cpu``: uint8 with a zero point, so that all 256 levels lie where the values are; a pair behind every
  operator that runs on integers (convolution, addition, concatenation, pooling; the ReLU included), the
  bias an integer too. Activations without an integer kernel, such as HardSwish, stand in float between
  two pairs. Weights have 7 bits unless the CPU has VNNI: the older multiply-add instruction saturates at
  16 bits, without any error. Labels are taken by cell (:mod:`fcn_deploy.export.graph.cells`).

:mod:`fcn_deploy.calibration.pairs` chooses the tensors; here the nodes are written.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.calibration.pairs import layer_inputs, pairs_for
from fcn_deploy.calibration.ranges import Range
from fcn_deploy.errors import CalibrationError
from fcn_deploy.export.graph.cells import label_by_cell
from fcn_deploy.export.graph.surgery import PROTO_HALF, element_types, makers, replace_nodes
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


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


def place(
    fp32: ModelProto,
    ranges: Mapping[str, Range],
    layers: Collection[str],
    target: QuantizationTarget,
    base: ModelProto | None = None,
) -> ModelProto:
    """A copy in which ``layers`` run on integers.

    Args:
        fp32: a deploy graph in fp32, in normal form.
        ranges: the range of each tensor that :func:`~fcn_deploy.calibration.pairs.measured_tensors` names.
        layers: names of convolutions.
        target: one of :func:`target_of`.
        base: what is not INT8: ``fp32`` itself, or that graph as ``export.precision.to_fp16`` makes it.

    Raises:
        CalibrationError: a layer is not in the graph, or a range is missing.
    """
    onnx = require("onnx", extra="export")
    known = layer_inputs(fp32)
    if unknown := sorted(set(layers) - set(known)):
        raise CalibrationError(f"there is no convolution {unknown[0]}; choose from {', '.join(known)}")
    pairs = pairs_for(fp32, layers, target.name)
    missing = next((source for source in pairs.ranges.values() if source not in ranges), None)
    if missing is not None:
        readers = ", ".join(name for name, tensor in known.items() if tensor == missing)
        raise CalibrationError(
            f"there is no range for the tensor {missing}{f', the input of {readers}' if readers else ''}; "
            "calibrate again"
        )
    model = copy.deepcopy(fp32 if base is None else base)
    chosen = {tensor: ranges[source] for tensor, source in pairs.ranges.items()}
    _Placement(model, chosen, pairs.readers, set(layers), target).run()
    if target.labels_by_cell:
        label_by_cell(model)
    onnx.checker.check_model(model)
    return model


class _Placement:
    """One pass over the nodes: each is appended after the pairs that it needs."""

    def __init__(
        self,
        model: ModelProto,
        ranges: Mapping[str, Range],
        readers: Collection[tuple[str, int]],
        layers: set[str],
        target: QuantizationTarget,
    ) -> None:
        self.onnx = require("onnx", extra="export")
        self.graph, self.ranges, self.readers, self.layers, self.target = (
            *(model.graph, ranges, readers, layers, target),
        )
        self.nodes: list[NodeProto] = []
        self.weights = {t.name: t for t in model.graph.initializer}
        self.kinds, self.made_by = element_types(model), makers(model)
        self.pairs: dict[str, str] = {}
        """Tensor -> what its consumers read in its place."""
        self.scales: dict[str, tuple[np.floating[Any], int]] = {}
        """Tensor with a pair -> its scale and zero point."""

    def run(self) -> None:
        original = list(self.graph.node)
        for node in original:
            for i, name in enumerate(node.input):
                if (node.name, i) in self.readers:
                    node.input[i] = self._pair(name)
            if node.op_type == "Conv" and node.name in self.layers:
                self._quantise_weights(node)
            self.nodes.append(node)
        replace_nodes(self.graph, self.nodes)

    def _range(self, tensor: str) -> Range:
        """A tensor's range; in an fp16 graph a cast may stand between it and its reader."""
        while tensor not in self.ranges:
            tensor = self.made_by[tensor].input[0]
        return self.ranges[tensor]

    def _pair(self, tensor: str) -> str:
        """Q and DQ behind a tensor, once; the name of the dequantised one."""
        if tensor not in self.pairs:
            scale, zero = self._scale(tensor)
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

    def _scale(self, tensor: str) -> tuple[np.floating[Any], int]:
        low, high = self._range(tensor)
        half = self.kinds.get(tensor) == PROTO_HALF
        if not self.target.unsigned:
            return _stored(max(-low, high) / 127, half), 0
        # A ReLU's range starts at 0, which makes the zero point 0 and lets the ReLU be fused.
        scale = _stored((high - low) / 255, half)
        return scale, round(-low / float(scale))

    def _quantise_weights(self, node: NodeProto) -> None:
        """Per output channel, symmetric; the scales are rounded first, so that they are what divides."""
        name = node.input[1]
        values = self.onnx.numpy_helper.to_array(self.weights[name]).astype(np.float32)
        limit = self.target.weight_limit
        peaks = np.abs(values).reshape(len(values), -1).max(1)
        half = self.weights[name].data_type == PROTO_HALF
        scales = np.array([_stored(scale, half) for scale in np.maximum(peaks / limit, self._finest(node))])
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


def _stored(scale: float, half: bool) -> np.floating[Any]:
    """A scale in the type of its tensor, never zero: a channel may be dead."""
    kind = np.float16 if half else np.float32
    return kind(max(scale, float(np.finfo(kind).smallest_subnormal) if half else 1e-12))
