"""fp32 graph -> fp16 graph, with a range check on real frames.

TensorRT 11 and TensorRT-RTX have no precision flags: what the graph says is what is built. An
fp16 engine is an fp16 graph, made here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import ExportError, SourceError
from fcn_deploy.export.graph.roles import data_inputs, first_convolutions, network_tensors
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF, element_types, replace_nodes
from fcn_deploy.export.graph.watch import Watch
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.base import check_frames
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

FP16_LARGEST = 65504.0
"""The largest finite IEEE 754 half-precision number."""

_HALF_OPS = {
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "MaxPool", "AveragePool", "ArgMax"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Tanh"),
    *("Gelu", "Erf", "Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Abs", "Concat", "Split", "Expand"),
    *("Resize", "Upsample", "Slice", "Pad", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
    *("Gather", "DepthToSpace", "SpaceToDepth"),
}
"""Operators that run in fp16, from the first convolution on. Any other stays in fp32: normalising (the mean
is not an fp16 number); global means, whose sum over a large map leaves fp16 where no value of the map does;
powers, roots and exponentials, and with them the softmax behind a confidence."""

_KEEP_SIZE = {
    *("Relu", "LeakyRelu", "HardSwish", "Gelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"),
    *(
        "Slice",
        "Resize",
        "Upsample",
        "Pad",
        "Split",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
    ),
    *("Gather", "Expand", "DepthToSpace", "SpaceToDepth"),
}
"""Operators whose output can be as large as their input."""

_GROWING = {
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "Resize", "Upsample", "Add", "Sub", "Mul", "Div", "Neg"),
    *("Pow", "Exp", "ReduceSum"),
}
"""Operators whose output can be larger than their input."""

_DATA_INPUTS = {"Resize": 1, "Upsample": 1, "Slice": 1}
"""How many leading inputs are data; the others are scales and indices."""


def to_fp16(model: ModelProto, keep_fp32: Collection[str] = ()) -> ModelProto:
    """A copy that is float16 from its first convolutions on, with casts at the borders.

    Args:
        model: a deploy graph in float32, in normal form.
        keep_fp32: layers, by name or output, whose output is too large for fp16. They stay in float32, and
            so does what reads their output, up to the layer that brings it back into range.

    Raises:
        ExportError: the graph is not float32, or a weight is too large for fp16.
    """
    onnx = require("onnx", extra="export")
    model = copy.deepcopy(model)
    graph = model.graph
    del graph.value_info[:]  # types from shape inference say fp32
    weights = {t.name: t for t in graph.initializer}
    kinds = element_types(model)
    if any(t.data_type == PROTO_HALF for t in graph.initializer):
        raise ExportError("the graph already holds fp16 weights; start from the fp32 file")

    nodes: list[NodeProto] = []
    readers = Counter(name for node in graph.node for name in node.input)
    beyond = _beyond(model, keep_fp32)
    now = dict(kinds)  # the type that each tensor has in the new graph

    def as_type(name: str, wanted: int) -> str:
        """``name`` as a tensor of the wanted float type, cast once where it is of the other."""
        if now.get(name) not in (PROTO_FLOAT, PROTO_HALF) or now[name] == wanted:
            return name
        if name in weights and wanted == PROTO_HALF and readers[name] == 1:
            weights[name].CopyFrom(_half(weights[name]))
            now[name] = PROTO_HALF
            return name
        other = f"{name}.{'fp16' if wanted == PROTO_HALF else 'fp32'}"
        if other not in now:
            if name in weights and wanted == PROTO_HALF:
                graph.initializer.append(_half(weights[name]))
                graph.initializer[-1].name = other
            else:
                nodes.append(onnx.helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=wanted))
            now[other] = wanted
        return other

    network = network_tensors(model)
    for node in graph.node:
        half = node.op_type in _HALF_OPS and kinds.get(node.input[0]) == PROTO_FLOAT
        half = half and not network.isdisjoint(node.output)
        half = half and beyond.isdisjoint((*node.input, *node.output))
        wanted = PROTO_HALF if half else PROTO_FLOAT
        for i in range(min(len(node.input), _DATA_INPUTS.get(node.op_type, len(node.input)))):
            node.input[i] = as_type(node.input[i], wanted)
        nodes.append(node)
        for name in node.output:
            if half and kinds.get(name) == PROTO_FLOAT:
                now[name] = PROTO_HALF
    _outputs_in_fp32(model, nodes, now)
    replace_nodes(graph, nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def _beyond(model: ModelProto, layers: Collection[str]) -> set[str]:
    """The tensors with values beyond fp16: the outputs of ``layers``, and of operators that pass them on."""
    beyond: set[str] = set()
    for node in model.graph.node:
        named = node.name in layers or not set(layers).isdisjoint(node.output)
        if named or (node.op_type in _KEEP_SIZE and not beyond.isdisjoint(data_inputs(node))):
            beyond.update(node.output)
    return beyond


def _outputs_in_fp32(model: ModelProto, nodes: list[NodeProto], now: dict[str, int]) -> None:
    """Outputs keep their declared type: one that became fp16 is computed under another name."""
    onnx = require("onnx", extra="export")
    for output in model.graph.output:
        if now.get(output.name) != PROTO_HALF:
            continue
        inner = f"{output.name}.fp16"
        for node in nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == output.name:
                        names[i] = inner
        nodes.append(
            onnx.helper.make_node("Cast", [inner], [output.name], name=f"{output.name}.cast", to=PROTO_FLOAT)
        )


def _half(tensor: TensorProto) -> TensorProto:
    onnx = require("onnx", extra="export")
    values = onnx.numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > FP16_LARGEST:
        raise ExportError(
            f"{tensor.name} holds {largest:.4g} and fp16 ends at {FP16_LARGEST:.0f}; keep fp32 for this model"
        )
    half: TensorProto = onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name)
    return half


def activation_ranges(
    model: ModelProto, spec: ModelSpec, batches: Iterable[NDArray[np.uint8]]
) -> tuple[dict[str, float], int]:
    """The largest absolute value of each layer's output over frames, one batch in memory at a time.

    Args:
        model: a deploy graph in float32.
        spec: its description.
        batches: uint8 ``[N, H, W, 3]``.

    Returns:
        Layer name -> largest absolute value, in graph order; and the number of frames.

    Raises:
        SourceError: there are no frames, or one is not a frame.
        ExportError: a layer gives NaN or infinity in fp32 already.
    """
    watched = _watched(model)
    largest = dict.fromkeys(watched, 0.0)
    frames = 0
    with open_session(model, watched) as session:
        watch = Watch(session, watched, spec)
        for batch in batches:
            images = check_frames(batch, spec)
            frames += len(images)
            for name, value in watch.values(images):
                peak = float(np.abs(value).max())
                if not np.isfinite(peak):
                    raise ExportError(f"layer {name} gives NaN or infinity in fp32")
                largest[name] = max(largest[name], peak)
    if frames == 0:
        raise SourceError("there are no calibration frames; give a folder with images")
    return largest, frames


def _watched(model: ModelProto) -> list[str]:
    """What first convolutions read, and the float outputs that can be larger than what they are made of.

    Additions of scores can overflow where no layer does.
    """
    kinds, network = element_types(model), network_tensors(model)
    first = set(first_convolutions(model))
    prepared = {node.input[0] for node in model.graph.node if node.name in first}
    return [
        name
        for node in model.graph.node
        for name in node.output
        if name in prepared
        or (node.op_type in _GROWING and name in network and kinds.get(name) == PROTO_FLOAT)
    ]


def check_fp16_range(
    model: ModelProto,
    spec: ModelSpec,
    batches: Iterable[NDArray[np.uint8]] | None,
    source: str,
    *,
    keep_fp32: bool = False,
) -> dict[str, Any]:
    """Evidence that no layer leaves the range of fp16 on these frames.

    Args:
        model: a deploy graph in float32.
        spec: its description.
        batches: uint8 ``[N, H, W, 3]``; None uses eight frames of the synthetic clip.
        source: the name of the frames, for the evidence.
        keep_fp32: name the layers that overflow as ``kept_fp32`` instead of failing.

    Returns:
        ``{"source", "frames", "limit", "largest", "layer", "by_layer", "kept_fp32"}``.

    Raises:
        ExportError: a layer overflows and may not stay in fp32; the message names it.
    """
    if batches is None:
        batches = synthetic_batches(spec)
    by_layer, frames = activation_ranges(model, spec, batches)
    layer = max(by_layer, key=lambda name: by_layer[name])
    over = [name for name, peak in by_layer.items() if peak > FP16_LARGEST]
    if over and not keep_fp32:
        raise ExportError(
            f"layer {over[0]} reaches {by_layer[over[0]]:.4g} on {source} and fp16 ends at "
            f"{FP16_LARGEST:.0f} ({len(over)} of {len(by_layer)} layers overflow: {', '.join(over[:5])}); "
            "keep those in fp32 (--keep-fp32), export all of it as fp32, or train with smaller activations"
        )
    return {
        "source": source,
        "frames": frames,
        "limit": FP16_LARGEST,
        "largest": by_layer[layer],
        "layer": layer,
        "by_layer": by_layer,
        "kept_fp32": over,
    }


def synthetic_batches(spec: ModelSpec, frames: int = 8) -> Iterable[NDArray[np.uint8]]:
    """Frames of the synthetic street clip, one a batch: uint8 ``[1, 360, 480, 3]``, or the fixed size."""
    from fcn_deploy.data.street import SyntheticStreet

    _, fixed_height, fixed_width = spec.fixed_shape
    height = fixed_height or max(spec.min_height, min(360, spec.max_height))
    width = fixed_width or max(spec.min_width, min(480, spec.max_width))
    clip = SyntheticStreet(frames=frames, height=height, width=width, color_order=spec.color_order)
    return (frame.image[None] for frame in clip)
