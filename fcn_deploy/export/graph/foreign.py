"""Somebody else's graph made plain: one output, weights as initializers, a name for every node."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from fcn_deploy.errors import ExportError, ModelError
from fcn_deploy.export.graph.normal_form import (
    constants_to_initializers,
    name_nodes,
    remove_what_gives_nothing,
    skip_identities,
)
from fcn_deploy.export.graph.surgery import inferred_values, names_read, rename
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

    Constants are initializers, so that the weights of a convolution always are, and every node has a name of
    its own. What describes the former graph (types of inner tensors, comments, metadata) is removed.

    Args:
        model: a graph without local functions.
        output: the tensor that becomes the only output.
    """
    graph = model.graph
    declared = inferred_values(model)[output]
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    for values, kept in ((graph.input, inputs), (graph.output, [declared])):
        del values[:]
        values.extend(kept)
    for described in (model, graph, *graph.node):
        del described.metadata_props[:]
        described.doc_string = ""
    del graph.value_info[:]
    constants_to_initializers(model)
    skip_identities(model)
    remove_what_gives_nothing(model)
    name_nodes(model)


def make_room(graph: GraphProto, reserved: Collection[str]) -> None:
    """Rename tensors and nodes that bear one of these names, in place."""
    tensors = {name for node in graph.node for name in (*names_read(node), *node.output)}
    tensors |= {value.name for value in (*graph.input, *graph.output)}
    rename(graph, {name: f"{name}.original" for name in reserved if name in tensors})
    for node in graph.node:
        if node.name in reserved:
            node.name = f"{node.name}.original"
