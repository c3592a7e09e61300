"""The network's own names for nodes and tensors, in place of the exporter's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fcn_deploy.contract import DEPLOY

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto


def tidy(model: ModelProto) -> None:
    """Give nodes and tensors the network's own names, in place, and remove the exporter's metadata.

    A convolution is named after its layer (``conv3_2``), a ReLU after its input (``conv3_2.relu``),
    pooling by number (``pool3``), the rest by operator and order. The exporter's metadata holds
    file paths of the machine that it ran on.
    """
    graph = model.graph
    del graph.value_info[:]
    renamed = _short_names([t.name for t in graph.initializer])
    outputs = {o.name for o in graph.output}
    count: dict[str, int] = {}
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = _node_name(node, renamed, count)
        for place, old in enumerate(node.output):
            if old not in outputs:
                renamed[old] = node.name if place == 0 else f"{node.name}.{place}"
    for node in graph.node:
        for names in (node.input, node.output):
            for i, old in enumerate(names):
                names[i] = renamed.get(old, old)
    for tensor in graph.initializer:
        tensor.name = renamed[tensor.name]
        tensor.doc_string = ""
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
        _name_axes(value)
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del model.functions[:]
    graph.doc_string = model.doc_string = ""
    graph.name = "deploy"


def _node_name(node: NodeProto, renamed: dict[str, str], count: dict[str, int]) -> str:
    if node.op_type in ("Conv", "ConvTranspose"):
        layer = renamed.get(node.input[1], node.input[1]).removesuffix(".weight")
        # upscore2 and upscore_pool4 share one initializer when both hold the same fixed kernel.
        return _counted(layer, count)
    if node.op_type == "Relu":
        return _counted(f"{renamed.get(node.input[0], node.input[0])}.relu", count)
    kind = "pool" if node.op_type == "MaxPool" else node.op_type.lower()
    count[kind] = count.get(kind, 0) + 1
    return f"{kind}{count[kind]}"


def _counted(name: str, count: dict[str, int]) -> str:
    """``name``, and with a number from its second use on."""
    count[name] = count.get(name, 0) + 1
    return name if count[name] == 1 else f"{name}.{count[name]}"


def _short_names(names: list[str]) -> dict[str, str]:
    """Names without those of the modules around the network, unless two would be the same."""
    short = {name: name.removeprefix("model.").removeprefix("module.") for name in names}
    uses = Counter(short.values())
    return {name: found if uses[found] == 1 else name for name, found in short.items()}


def _name_axes(value: ValueInfoProto) -> None:
    """Name the axes that vary as the contract does."""
    stated = {**DEPLOY.inputs, **DEPLOY.outputs}[value.name].axes
    for dimension, axis in zip(value.type.tensor_type.shape.dim, stated, strict=True):
        if axis in ("batch", "height", "width"):
            dimension.dim_param = axis
