"""Small operations on ONNX graphs that export, precision and quantisation share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import ModelError
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

PROTO_FLOAT, PROTO_HALF = 1, 10
"""onnx.TensorProto.FLOAT and FLOAT16, which need no import."""


def inferred_values(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Tensor name -> type and shape, for the tensors of a graph that shape inference reaches."""
    onnx = require("onnx", extra="export")
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if len(tensor.raw_data) > 1024:  # shapes need the small ones only
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(light)
    return {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}


def element_types(model: ModelProto) -> dict[str, int]:
    """Tensor name -> ONNX element type, for all tensors of a graph."""
    kinds = {name: value.type.tensor_type.elem_type for name, value in inferred_values(model).items()}
    return {**kinds, **{t.name: t.data_type for t in model.graph.initializer}}


def channel_counts(model: ModelProto) -> dict[str, int]:
    """Name of a map ``[N, C, H, W]`` -> its channels, where their number is known."""
    shapes = {name: value.type.tensor_type.shape.dim for name, value in inferred_values(model).items()}
    return {name: dims[1].dim_value for name, dims in shapes.items() if len(dims) == 4 and dims[1].dim_value}


def makers(model: ModelProto) -> dict[str, NodeProto]:
    """Tensor name -> the node that makes it; inputs and initializers have none."""
    return {name: node for node in model.graph.node for name in node.output}


def readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Tensor name -> the nodes that read it, in graph order; one that reads it twice stands here once."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attribute name -> its value."""
    onnx = require("onnx", extra="export")
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def constants(model: ModelProto, limit: int = 1 << 16) -> dict[str, NDArray[Any]]:
    """Initializer name -> its values, for those of at most ``limit`` numbers."""
    onnx = require("onnx", extra="export")
    return {
        t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if np.prod(t.dims) <= limit
    }


def names_read(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs (of If, Loop, Scan) read included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            for inner in graph.node:
                yield from names_read(inner)
            yield from (output.name for output in graph.output)


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, in place, wherever they stand: in subgraphs, inputs and outputs too."""
    if not names:
        return
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            for place, name in enumerate(listed):
                listed[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                rename(inner, names)


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph these nodes, in place, and remove the initializers that none of them reads."""
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in names_read(node)}
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
    """Write ceil-mode pooling as padding at the end, by a row and a column less than the stride, in place.

    Both make ``ceil((n - kernel) / stride) + 1`` of ``n``, and the padding never wins a maximum, so no number
    changes. But runtimes differ in ceil mode: OpenVINO refuses a window larger than its input, which a frame
    of 16 rows has at pool5, and other runtimes ignore the mode. Where a window would hold nothing but
    padding the mode stays.
    """
    onnx = require("onnx", extra="export")
    for node in model.graph.node:
        stated = attributes(node)
        if node.op_type != "MaxPool" or not stated.get("ceil_mode"):
            continue
        kernel = stated["kernel_shape"]
        steps = stated.get("strides") or [1] * len(kernel)
        pads = list(stated.get("pads") or [0] * 2 * len(kernel))
        ends = [end + step - 1 for end, step in zip(pads[len(kernel) :], steps, strict=True)]
        if any(end >= size for end, size in zip(ends, kernel, strict=True)):
            continue
        stated |= {"ceil_mode": 0, "pads": [*pads[: len(kernel)], *ends]}
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in stated.items())


def deciding_node(
    model: ModelProto, through: Collection[str] = ("Cast", "Slice", "Identity")
) -> NodeProto | None:
    """The ArgMax that the labels come from; None where the network itself gives labels, not scores.

    Args:
        through: operators that may stand between the two; by default those that keep the size, or crop it.
    """
    made_by = makers(model)
    node = made_by.get("labels")
    while node is not None and node.op_type in through:
        node = made_by.get(node.input[0])
    return node if node is not None and node.op_type == "ArgMax" else None


def crop_offset(model: ModelProto) -> int:
    """Rows and columns that the deploy graph crops at the labels' start; 0 where it crops the logits."""
    deciding = deciding_node(model)
    inside = None if deciding is None else deciding.output[0]
    starts = [n.input[1] for n in model.graph.node if n.op_type == "Slice" and n.input[0] == inside]
    return int(constants(model)[starts[0]][0]) if starts else 0
