"""Somebody else's graph made plain: one output, weights as initializers, a name for every node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from fcn_deploy.errors import ExportError, ModelError
from fcn_deploy.export.graph.surgery import attributes_of, inferred_values, names_read, replace_nodes
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""

_OPERATOR_QUANTISED = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""INT8 as operators of their own, in place of Q/DQ around float ones."""


def inlined(model: ModelProto, name: str) -> ModelProto:
    """The graph with the bodies of its local functions in place of their calls.

    Raises:
        ExportError: onnx cannot do it.
    """
    if not model.functions:
        return model
    inliner = require("onnx.inliner", extra="export")
    try:
        plain: ModelProto = inliner.inline_local_functions(model)
    except Exception as exc:  # it raises many classes
        raise ExportError(
            f"the local functions of {name} cannot be inlined ({exc}); export it without them, or save it "
            "once with onnx.inliner"
        ) from exc
    return plain


def check_operators(model: ModelProto, name: str) -> None:
    """Refuse operators that are not ONNX's own, which no other runtime knows, and the older form of INT8.

    Raises:
        ModelError: names them.
    """
    custom = sorted({f"{n.domain}.{n.op_type}" for n in _nodes(model.graph) if n.domain not in _STANDARD})
    if custom:
        raise ModelError(
            f"{name} uses operators that are not ONNX's own: {', '.join(custom[:5])}; TensorRT and OpenVINO "
            "lack them, so export the network with standard operators, and before a runtime optimises it"
        )
    found = {node.op_type for node in _nodes(model.graph)}
    if old := [kind for kind in _OPERATOR_QUANTISED if kind in found]:
        raise ModelError(
            f"{name} is quantised with {old[0]}, which TensorRT does not read; wrap the fp32 file and use "
            "fcn-deploy quantize, or export it with QuantizeLinear and DequantizeLinear (QDQ)"
        )


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                yield from _nodes(inner)


def simplify(model: ModelProto, output: str) -> None:
    """Keep what one tensor needs, in place, and write it as the passes of this package read it.

    Constant nodes become initializers and copies of initializers are left out: the weights of a convolution
    are then always an initializer. Every node has a name of its own. What describes the former graph
    (types of inner tensors, comments, metadata) is removed.

    Args:
        model: a graph without local functions.
        output: the tensor that becomes the only output.
    """
    graph = model.graph
    declared = inferred_values(model)[output]
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    graph.doc_string = model.doc_string = ""
    _constants_to_initializers(graph)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    graph.output.append(declared)
    replace_nodes(graph, list(_needed(graph, output)))
    _name_nodes(graph)


def _constants_to_initializers(graph: GraphProto) -> None:
    """Constant nodes become initializers; who reads an initializer through Identity reads it itself."""
    onnx = require("onnx", extra="export")
    outputs = {value.name for value in graph.output}
    weights = {tensor.name for tensor in graph.initializer}
    copies: dict[str, str] = {}
    kept = []
    for node in graph.node:
        name = node.output[0] if node.output else ""
        if node.op_type == "Constant" and (value := attributes_of(node).get("value")) is not None:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = name
            graph.initializer.append(tensor)
            weights.add(name)
        elif node.op_type == "Identity" and node.input[0] in weights and name not in outputs:
            copies[name] = copies.get(node.input[0], node.input[0])
            weights.add(name)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    rename(graph, copies)


def _needed(graph: GraphProto, output: str) -> Iterator[NodeProto]:
    """The nodes that a tensor depends on, in their order."""
    wanted, needed = {output}, set()
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if not wanted.isdisjoint(node.output):
            needed.add(place)
            wanted.update(names_read(node))
    return (node for place, node in enumerate(graph.node) if place in needed)


def _name_nodes(graph: GraphProto) -> None:
    """A name for each node that has none or shares one, by operator and number; comments are removed."""
    used = Counter(node.name for node in graph.node)
    numbers: Counter[str] = Counter()
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        while not node.name or used[node.name] > 1:
            kind = node.op_type.lower()
            numbers[kind] += 1
            used[node.name] -= 1
            node.name = f"{kind}_{numbers[kind]}"
            used[node.name] += 1


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


def make_room(graph: GraphProto, reserved: Collection[str]) -> None:
    """Rename tensors and nodes that bear one of these names, in place."""
    tensors = {name for node in graph.node for name in (*names_read(node), *node.output)}
    tensors |= {value.name for value in (*graph.input, *graph.output)}
    rename(graph, {name: f"{name}.original" for name in reserved if name in tensors})
    for node in graph.node:
        if node.name in reserved:
            node.name = f"{node.name}.original"
