"""Which tensors get a Q/DQ pair for a target, and who reads it: decided on the fp32 graph, by topology.

See :mod:`fcn_deploy.calibration.placement` for why the two targets differ.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fcn_deploy.export.graph.roles import data_inputs, pixel_tensors, pooled_layers, score_layers
from fcn_deploy.export.graph.surgery import attributes, makers, readers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_FUSED = ("Relu", "Clip")
"""Activations that become a part of the integer operator before them."""
_INTEGER = ("Add", "Concat", "AveragePool", "GlobalAveragePool")
"""Operators beside convolutions that have integer kernels on CPUs, where all that they read is quantised."""

_WORTH = 256
"""Multiply-adds for each output from which a convolution on integers pays for an output that must be float at
once, as before a hard-swish. Measured on lraspp_mobilenet_v3_large in ONNX Runtime (AVX-512 with VNNI): such
an output costs 1.2 ns more a number, and a multiply-add 0.006 ns less (0.0096 instead of 0.0155)."""

Reader = tuple[str, int]
"""A node's name and the number of one of its inputs."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of one Q/DQ graph."""

    ranges: Mapping[str, str]
    """Tensor with a pair -> the tensor whose range it takes: itself, or that beyond a pooling."""
    readers: frozenset[Reader]
    """The inputs that read the pair in place of the tensor."""


def layer_inputs(model: ModelProto) -> dict[str, str]:
    """Each convolution and the tensor that it reads, in graph order."""
    return {node.name: node.input[0] for node in model.graph.node if node.op_type == "Conv"}


def default_layers(model: ModelProto, target: str = "tensorrt") -> list[str]:
    """The convolutions quantised by default, in graph order.

    Score layers are left out: their logits decide ties. So are layers behind global pooling, which see one
    pixel and cost nothing, and those whose weights are computed, or are not those of a 2-D convolution. On a
    CPU, so are those of little work whose output only float operators read (:data:`_WORTH`).
    """
    weights = {t.name: t.dims for t in model.graph.initializer if len(t.dims) == 4}
    left = {*score_layers(model), *pooled_layers(model)}
    convs = [
        n for n in model.graph.node if n.op_type == "Conv" and n.name not in left and n.input[1] in weights
    ]
    if target == "cpu":
        graph = _PairedGraph(model, [conv.name for conv in convs])
        convs = [
            conv
            for conv in convs
            if graph.feeds_integers(conv) or math.prod(weights[conv.input[1]][1:]) >= _WORTH
        ]
    return [conv.name for conv in convs]


def pairs_for(model: ModelProto, layers: Collection[str], target: str) -> Pairs:
    """Where pairs stand so that ``layers`` run on integers.

    Args:
        model: a deploy graph in fp32, in normal form.
        layers: names of convolutions.
        target: ``tensorrt`` or ``cpu``.
    """
    graph = _PairedGraph(model, layers)
    return graph.for_cpu() if target == "cpu" else graph.for_tensorrt()


def measured_tensors(model: ModelProto) -> list[str]:
    """The tensors whose ranges any choice of layers and target may need, in graph order."""
    wanted = set(layer_inputs(model).values())
    for target in ("tensorrt", "cpu"):
        wanted.update(pairs_for(model, default_layers(model, target), target).ranges.values())
    order = [name for node in model.graph.node for name in node.output]
    return [name for name in order if name in wanted]


class _PairedGraph:
    def __init__(self, model: ModelProto, layers: Collection[str]) -> None:
        self.nodes = list(model.graph.node)
        self.made_by, self.read_by = makers(model), readers(model)
        self.outputs = {output.name for output in model.graph.output}
        self.pixels = pixel_tensors(model)
        self.layers = {node.output[0]: node for node in self.nodes if node.name in set(layers)}
        """Output of a quantised convolution -> the convolution."""

    def feeds_integers(self, conv: NodeProto) -> bool:
        """Whether an operator that can run on integers reads its output, or the activation behind it."""
        following = self.read_by.get(self._end(conv.output[0]), [])
        return any(
            node.op_type == "Conv" or node.op_type in _INTEGER or self._keeps_range(node)
            for node in following
        )

    def for_tensorrt(self) -> Pairs:
        """At the inputs of quantised convolutions, and of additions whose other operand is one's output."""
        readers: dict[Reader, str] = {(conv.name, 0): conv.input[0] for conv in self.layers.values()}
        for node in self.nodes:
            place = self._residual(node)
            if place is not None:
                readers[node.name, place] = node.input[place]
        return Pairs({name: name for name in readers.values()}, frozenset(readers))

    def _residual(self, node: NodeProto) -> int | None:
        """Which operand of an addition is quantised: not the one that a convolution gives directly.

        TensorRT fuses a convolution, the addition of a residual that is INT8, and the ReLU behind it. Where
        both operands come from convolutions, the one behind fewer layers is the residual: the shortcut.
        """
        if node.op_type != "Add" or not self.pixels.issuperset(node.input):
            return None
        fused = [
            i for i, name in enumerate(node.input) if name in self.layers and len(self.read_by[name]) == 1
        ]
        if not fused:
            return None
        deepest = max(fused, key=lambda i: self._depths.get(node.input[i], 0))
        return 1 - deepest

    @cached_property
    def _depths(self) -> dict[str, int]:
        """Tensor -> convolutions on the longest way from the frame to it."""
        depths: dict[str, int] = {}
        for node in self.nodes:
            depth = max((depths.get(name, 0) for name in node.input), default=0)
            depths.update(dict.fromkeys(node.output, depth + (node.op_type == "Conv")))
        return depths

    def for_cpu(self) -> Pairs:
        """Behind every operator that runs on integers, its activation included, and before it."""
        wanted = {conv.input[0] for conv in self.layers.values()} | {self._end(name) for name in self.layers}
        for node in reversed(self.nodes):
            if self._end(node.output[0]) in wanted and self._can_run_on_integers(node, wanted):
                wanted.update(data_inputs(node))
        for node in self.nodes:
            if self._keeps_range(node) and node.input[0] in wanted:
                wanted.add(node.output[0])
        # The order of the graph, so that files are the same each time.
        order = [name for node in self.nodes for name in node.output if name in wanted]
        readers = {
            (node.name, i) for node in self.nodes for i, name in enumerate(node.input) if name in wanted
        }
        return Pairs({name: self._source(name, wanted) for name in order}, frozenset(readers))

    def _can_run_on_integers(self, node: NodeProto, wanted: Collection[str]) -> bool:
        if self._keeps_range(node):
            return True
        if node.op_type not in _INTEGER or not self.pixels.issuperset(node.input):
            return False
        return node.op_type == "Concat" or all(
            name in wanted or self._is_integer(name) for name in node.input
        )

    def _is_integer(self, tensor: str) -> bool:
        """Whether a tensor is made by an operator that has an integer kernel, through its activation."""
        node = self.made_by.get(tensor)
        if node is not None and node.op_type in _FUSED:
            node = self.made_by.get(node.input[0])
        return node is not None and node.op_type in _INTEGER

    def _end(self, tensor: str) -> str:
        """Where the pair stands: behind the activation, where nothing else reads what is before it."""
        following = self.read_by.get(tensor, [])
        if len(following) == 1 and following[0].op_type in _FUSED and tensor not in self.outputs:
            return str(following[0].output[0])
        return tensor

    def _keeps_range(self, node: NodeProto) -> bool:
        """Whether it picks some of its input's values, so that both sides can share their integers."""
        if node.op_type == "MaxPool":
            return len(node.output) == 1
        return node.op_type == "Resize" and attributes(node).get("mode", b"nearest") == b"nearest"

    def _source(self, tensor: str, wanted: Collection[str]) -> str:
        """The tensor whose range a pair takes.

        Clipping commutes with a maximum, so both sides of a pooling share a range: that of the pooled tensor,
        or of the one before where others read that too.
        """
        node = self.made_by.get(tensor)
        if node is not None and self._keeps_range(node) and len(self.read_by[node.input[0]]) > 1:
            return self._source(node.input[0], wanted)
        following = self.read_by.get(tensor, [])
        if len(following) == 1 and self._keeps_range(following[0]) and following[0].output[0] in wanted:
            return self._source(following[0].output[0], wanted)
        return tensor
