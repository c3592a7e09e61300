"""One form for the graphs of all exporters, so that what follows need not know who wrote them.

Constants are initializers, every node has a name of its own, batch normalisation is part of the
convolution before it, global means are GlobalAveragePool, and nothing stands in the graph that gives no
output. A graph in this form already, such as that of an FCN-8s, is not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import INPUT
from fcn_deploy.errors import ModelError
from fcn_deploy.export.graph.surgery import (
    attributes,
    channel_counts,
    constants,
    makers,
    names_read,
    readers,
    rename,
    replace_nodes,
)
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


def normalise(model: ModelProto) -> None:
    """Bring a graph into normal form, in place; its results do not change beyond rounding.

    Args:
        model: any graph with inference operators of ONNX's own domain.
    """
    constants_to_initializers(model)
    skip_identities(model)
    _share_no_weights(model)
    _fold_batch_normalisation(model)
    _pool_globally(model)
    remove_what_gives_nothing(model)
    name_nodes(model)


def at_least_opset(model: ModelProto, opset: int) -> ModelProto:
    """The graph itself, or its conversion where its opset is older.

    Raises:
        ModelError: onnx's converter does not know how.
    """
    onnx = require("onnx", extra="export")
    found = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if found >= opset:
        return model
    try:
        newer: ModelProto = onnx.version_converter.convert_version(model, opset)
    except Exception as exc:  # a RuntimeError or a ConvertError, by version
        raise ModelError(
            f"the graph has opset {found}, {opset} is needed, and onnx {onnx.__version__} cannot convert it "
            f"({exc}); export it again with opset {opset} or newer"
        ) from exc
    normalise(newer)
    return newer


def constants_to_initializers(model: ModelProto) -> None:
    """Constant nodes as initializers, in place."""
    kept = []
    for node in model.graph.node:
        value = _value_of(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            model.graph.initializer.append(value)
    if len(kept) < len(model.graph.node):
        replace_nodes(model.graph, kept)


def _value_of(node: NodeProto) -> TensorProto | None:
    """A Constant's value under the name of its output; None for strings and sparse tensors."""
    onnx = require("onnx", extra="export")
    ((kind, value),) = attributes(node).items()
    if kind == "value":
        tensor: TensorProto = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if kind not in types:
        return None
    made: TensorProto = onnx.numpy_helper.from_array(np.asarray(value, types[kind]), node.output[0])
    return made


def skip_identities(model: ModelProto) -> None:
    """Nodes read what an Identity reads (a Dropout is one in inference); outputs keep their names."""
    outputs = {output.name for output in model.graph.output}
    origin: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        idle = node.op_type == "Identity" or (node.op_type == "Dropout" and len(node.output) == 1)
        if idle and node.output[0] not in outputs:
            origin[node.output[0]] = origin.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    if origin:
        rename(model.graph, origin)
        replace_nodes(model.graph, kept)


def _share_no_weights(model: ModelProto) -> None:
    """Convolutions behind which batch normalisation is folded need weights of their own."""
    onnx = require("onnx", extra="export")
    weights = {t.name: t for t in model.graph.initializer}
    read_by = readers(model)
    for conv, _ in _normalised(model, read_by):
        for i, name in enumerate(conv.input[1:], start=1):
            if len(read_by[name]) > 1:
                own = onnx.TensorProto()
                own.CopyFrom(weights[name])
                own.name = f"{conv.output[0]}.{name}"
                model.graph.initializer.append(own)
                conv.input[i] = own.name


def _normalised(model: ModelProto, read_by: dict[str, list[NodeProto]]) -> list[tuple[NodeProto, NodeProto]]:
    """Convolutions (transposed ones too) that nothing but a BatchNormalization reads, and that one."""
    weights = {t.name for t in model.graph.initializer}
    outputs = {output.name for output in model.graph.output}
    found = []
    for conv in model.graph.node:
        if conv.op_type not in ("Conv", "ConvTranspose") or not weights.issuperset(
            filter(None, conv.input[1:])
        ):
            continue
        following = read_by.get(conv.output[0], [])
        if len(following) == 1 and conv.output[0] not in outputs:
            norm = following[0]
            if norm.op_type == "BatchNormalization" and weights.issuperset(norm.input[1:]):
                found.append((conv, norm))
    return found


def _fold_batch_normalisation(model: ModelProto) -> None:
    """Into the convolution before it; without one it becomes a product and a sum."""
    onnx = require("onnx", extra="export")
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if not norms:
        return
    values = {name for node in norms for name in node.input[1:]}
    convs = {norm.name or norm.output[0]: conv for conv, norm in _normalised(model, readers(model))}
    values |= {name for conv in convs.values() for name in conv.input[1:]}
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in values}
    kept: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or any(name not in arrays for name in node.input[1:]):
            kept.append(node)
            continue
        factor, offset = _affine(node, arrays)
        conv = convs.get(node.name or node.output[0])
        if conv is None:
            kept += _product_and_sum(model, node, factor, offset)
        else:
            _into_convolution(model, conv, arrays, factor, offset)
            conv.output[0] = node.output[0]
    replace_nodes(model.graph, kept)


def _affine(
    node: NodeProto, arrays: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and offset of each channel."""
    scale, bias, mean, variance = (arrays[name].astype(np.float64) for name in node.input[1:5])
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    return factor, bias - mean * factor


def _into_convolution(
    model: ModelProto,
    conv: NodeProto,
    arrays: dict[str, NDArray[Any]],
    factor: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> None:
    onnx = require("onnx", extra="export")
    weight = arrays[conv.input[1]]
    if conv.op_type == "Conv":
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # [in, out / groups, ...]: the output channels of a group stand along the second axis
        groups = attributes(conv).get("group", 1)
        by_group = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = by_group * factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = scaled.reshape(weight.shape)
    bias = offset if len(conv.input) < 3 else offset + arrays[conv.input[2]] * factor
    names = [conv.input[1], conv.input[2] if len(conv.input) > 2 else f"{conv.output[0]}.bias"]
    for name, values in zip(names, (scaled, bias), strict=True):
        tensor = next((t for t in model.graph.initializer if t.name == name), None)
        if tensor is None:
            tensor = model.graph.initializer.add()
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(weight.dtype), name))
    conv.input[:] = [conv.input[0], *names]


def _product_and_sum(
    model: ModelProto, node: NodeProto, factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> list[NodeProto]:
    onnx = require("onnx", extra="export")
    name = node.output[0]
    for what, values in (("factor", factor), ("offset", offset)):
        column = values.astype(np.float32).reshape(1, -1, 1, 1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(column, f"{name}.{what}"))
    product = onnx.helper.make_node("Mul", [node.input[0], f"{name}.factor"], [f"{name}.product"])
    total = onnx.helper.make_node("Add", [f"{name}.product", f"{name}.offset"], [name], name=node.name)
    return [product, total]


def _pool_globally(model: ModelProto) -> None:
    """A mean over height and width as GlobalAveragePool, which every runtime has a kernel for."""
    onnx = require("onnx", extra="export")
    known = constants(model)
    for node in model.graph.node:
        stated = attributes(node)
        if node.op_type != "ReduceMean" or not stated.get("keepdims", 1):
            continue
        axes = stated.get("axes") or (known.get(node.input[1]) if len(node.input) > 1 else None)
        if axes is not None and sorted(int(axis) for axis in axes) in ([-2, -1], [2, 3]):
            made = onnx.helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name)
            node.CopyFrom(made)
    _skip_copies_of_means(model)


def _skip_copies_of_means(model: ModelProto) -> None:
    """PyTorch's exporter copies a pooled map by flattening it and gathering every number in its order."""
    known, made_by, channels = constants(model), makers(model), channel_counts(model)
    origin: dict[str, str] = {}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = origin.get(name, name)
        if node.op_type != "Gather" or attributes(node).get("axis", 0) != 0:
            continue
        flat = made_by.get(node.input[0])
        if (
            flat is None
            or flat.op_type != "Reshape"
            or not np.array_equal(known.get(flat.input[1], ()), [-1])
        ):
            continue
        pool = made_by.get(flat.input[0])
        count = channels.get(flat.input[0])
        if pool is None or pool.op_type != "GlobalAveragePool" or count is None:
            continue
        if all(_counts_up(_evaluate(node.input[1], n, known, made_by), n, count) for n in (1, 2, 3)):
            origin[node.output[0]] = flat.input[0]
    if origin:
        kept = [node for node in model.graph.node if not node.output or node.output[0] not in origin]
        replace_nodes(model.graph, kept)


def _counts_up(indices: NDArray[Any] | None, batch: int, channels: int) -> bool:
    wanted = np.arange(batch * channels).reshape(batch, channels, 1, 1)
    return indices is not None and np.array_equal(indices, wanted)


def _evaluate(
    name: str, batch: int, known: dict[str, NDArray[Any]], made_by: dict[str, NodeProto]
) -> NDArray[np.int64] | None:
    """An integer tensor computed from constants and the batch size alone; None where there is more to it."""
    if name in known:
        return known[name]
    node = made_by.get(name)
    if node is None:
        return None
    if node.op_type == "Shape":
        stated = attributes(node)
        first = node.input[0] == INPUT and stated.get("start", 0) == 0 and stated.get("end") == 1
        return np.array([batch]) if first else None
    inputs = [_evaluate(each, batch, known, made_by) for each in node.input]
    if any(value is None for value in inputs):
        return None
    values = [np.asarray(value) for value in inputs]
    result: NDArray[Any] | None = None
    match node.op_type:
        case "Squeeze":
            result = values[0].reshape(())
        case "Range":
            result = np.arange(*(int(value) for value in values))
        case "Unsqueeze":
            result = np.expand_dims(values[0], tuple(int(axis) for axis in values[1]))
        case "Add":
            result = values[0] + values[1]
        case "Mul":
            result = values[0] * values[1]
    return result


def remove_what_gives_nothing(model: ModelProto) -> None:
    """Leave out nodes from which no output is computed, in place."""
    needed = {output.name for output in model.graph.output}
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(names_read(node))
            kept.append(node)
    if len(kept) < len(model.graph.node):
        replace_nodes(model.graph, kept[::-1])


def name_nodes(model: ModelProto) -> None:
    """Names where there are none or where two nodes share one: the name of the first output."""
    used: set[str] = set()
    for node in model.graph.node:
        name, copies = node.name or node.output[0], 1
        while name in used:
            copies += 1
            name = f"{node.name or node.output[0]}.{copies}"
        used.add(name)
        if node.name != name:
            node.name = name
