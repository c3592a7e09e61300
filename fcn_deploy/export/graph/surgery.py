"""Small operations on ONNX graphs that export, precision and quantisation share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.errors import ModelError
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

PROTO_FLOAT, PROTO_HALF = 1, 10
"""onnx.TensorProto.FLOAT and FLOAT16, which need no import."""


def element_types(model: ModelProto) -> dict[str, int]:
    """Tensor name -> ONNX element type, for all tensors of a graph."""
    onnx = require("onnx", extra="export")
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if len(tensor.raw_data) > 1024:  # shapes need the small ones only
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(light)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    return {**kinds, **{t.name: t.data_type for t in model.graph.initializer}}


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph these nodes, in place, and remove the initializers that none of them reads."""
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in read:
            del graph.initializer[place]


def find_node(model: ModelProto, op_type: str) -> NodeProto:
    """The one node of this type. Raises ModelError where there is none or more than one."""
    found: list[NodeProto] = [node for node in model.graph.node if node.op_type == op_type]
    if len(found) != 1:
        raise ModelError(f"expected one {op_type} in the deploy graph, found {len(found)}")
    return found[0]


def pad_pooling(model: ModelProto) -> None:
    """Write ceil-mode pooling as padding by one row and one column at the end, in place.

    Both make ``ceil(n / 2)`` of ``n``, and the padding never wins a maximum, so no number changes. But
    runtimes differ in ceil mode: OpenVINO refuses a window larger than its input, which a frame of 16
    rows has at pool5, and other runtimes ignore the mode.
    """
    onnx = require("onnx", extra="export")
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != "MaxPool" or not attributes.get("ceil_mode"):
            continue
        attributes |= {"ceil_mode": 0, "pads": [0, 0, 1, 1]}
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())


def crop_offset(model: ModelProto) -> int:
    """Rows and columns that the deploy graph crops at the labels' start; 0 where it crops the logits."""
    onnx = require("onnx", extra="export")
    inside = find_node(model, "ArgMax").output[0]
    starts = [n.input[1] for n in model.graph.node if n.op_type == "Slice" and n.input[0] == inside]
    values = {t.name: t for t in model.graph.initializer if t.name in starts}
    return int(onnx.numpy_helper.to_array(values[starts[0]])[0]) if starts else 0
