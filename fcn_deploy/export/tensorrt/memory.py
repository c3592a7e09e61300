"""How much device memory an engine will need, estimated from the graph before it is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.export.tensorrt.declared import item_bytes
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.tensorrt.profiles import Size

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_IN_PLACE = ("Relu", "Cast", "Sub", "Div", "Mul", "Add", "QuantizeLinear", "DequantizeLinear", "Identity")
"""What TensorRT folds into its neighbours: no memory of their own."""


def working_set(model: ModelProto, size: Size) -> int:
    """The most bytes of activations that are needed at the same time, for frames of one size.

    A lower bound of what an engine needs besides its weights: kernels may need scratch memory as well.

    Args:
        model: a deploy graph; the contents of its weights are not needed.
        size: batch, height and width.
    """
    tensors = _tensor_bytes(model, size)
    last_use: dict[str, int] = {}
    for place, node in enumerate(model.graph.node):
        last_use.update(dict.fromkeys(node.input, place))
    for output in model.graph.output:
        last_use[output.name] = len(model.graph.node)
    alive = {value.name: tensors.get(value.name, 0) for value in model.graph.input}
    peak = sum(alive.values())
    for place, node in enumerate(model.graph.node):
        made = {name: tensors.get(name, 0) for name in node.output}
        ending = [name for name in alive if last_use.get(name, -1) <= place]
        if node.op_type in _IN_PLACE:
            for name in ending:
                del alive[name]
            ending = []
        alive |= made
        peak = max(peak, sum(alive.values()))
        for name in ending:
            del alive[name]
    return peak


def _tensor_bytes(model: ModelProto, size: Size) -> dict[str, int]:
    """Bytes by name of every tensor whose shape can be inferred."""
    onnx = require("onnx", extra="export")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for axis, value in zip(fixed.graph.input[0].type.tensor_type.shape.dim, size, strict=False):
        axis.dim_value = value
    for output in fixed.graph.output:
        for axis in output.type.tensor_type.shape.dim:
            axis.ClearField("dim_param")
    known = {t.name for t in fixed.graph.initializer}
    fixed.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name)
        for name, value in _computed_sizes(fixed, (*size, 3)).items()
        if name not in known
    )
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    found = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        dims = [axis.dim_value for axis in tensor.shape.dim]
        if tensor.elem_type and all(dims):
            found[value.name] = int(np.prod(dims)) * item_bytes(tensor.elem_type)
    return found


_INTEGER_OPS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Mod": np.mod,
    "Neg": np.negative,
    "Min": lambda *values: np.minimum.reduce(values),
    "Max": lambda *values: np.maximum.reduce(values),
    "Squeeze": lambda value, axes=None: np.squeeze(value),
    "Unsqueeze": lambda value, axes: np.expand_dims(value, tuple(axes)),
    "Reshape": lambda value, shape: np.reshape(value, shape),
    "Identity": lambda value: value,
    "Concat": lambda *values: np.concatenate(values),
    "Gather": lambda value, indices: np.take(value, indices),
}
"""What the exporter computes sizes with. A size made by anything else stays unknown."""


def _computed_sizes(model: ModelProto, image: tuple[int, ...]) -> dict[str, Any]:
    """The integers that the graph computes from the frame's size: shape inference does not follow them."""
    onnx = require("onnx", extra="export")
    known: dict[str, Any] = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.INT64 and t.raw_data
    }
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] == model.graph.input[0].name:
            known[node.output[0]] = np.array(image[_span(node, len(image))], np.int64)
        elif node.op_type in _INTEGER_OPS and all(name in known for name in node.input):
            value = _INTEGER_OPS[node.op_type](*(known[name] for name in node.input))
            known[node.output[0]] = np.asarray(value, np.int64)
    return known


def _span(node: NodeProto, rank: int) -> slice:
    chosen = {attribute.name: attribute.i for attribute in node.attribute}
    return slice(chosen.get("start", 0), chosen.get("end", rank))
