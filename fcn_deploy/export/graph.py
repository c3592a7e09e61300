"""Small operations on ONNX graphs that export, precision and quantisation share."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.errors import ExportError, ModelError
from fcn_deploy.files import atomic_output, input_file, require_space
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.onnxruntime import WRONG_OPTIMIZERS
from fcn_deploy.spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto

SINGLE_FILE_LIMIT = 2**31 - 2**20
"""Protobuf cannot hold 2 GiB; beyond it (with room for the graph) weights go into a file beside."""

PROTO_FLOAT, PROTO_HALF = 1, 10
"""onnx.TensorProto.FLOAT and FLOAT16, which need no import."""


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all initializers."""
    return sum(len(t.raw_data) or 4 * int(np.prod(t.dims)) for t in model.graph.initializer)


def identity(model: ModelProto) -> str:
    """SHA-256 of graph and weights, metadata left out: what a child's provenance names."""
    kept = [(p.key, p.value) for p in model.metadata_props]
    del model.metadata_props[:]
    try:
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    finally:
        set_metadata(model, dict(kept))


def set_metadata(model: ModelProto, values: dict[str, str]) -> None:
    """Set keys of ``metadata_props``, replacing those that exist."""
    for prop in [p for p in model.metadata_props if p.key in values]:
        model.metadata_props.remove(prop)
    for key, value in values.items():
        model.metadata_props.add(key=key, value=value)


def read_model(path: str | Path) -> tuple[ModelProto, ModelSpec]:
    """An ONNX artefact with its weights, and its description.

    External data may only lie in the model's own folder; the onnx package refuses other paths.

    Raises:
        UsageError: the file cannot be read.
        ModelError: it is not a complete ONNX file, or has no description of ours.
    """
    onnx = require("onnx", extra="export")
    found = input_file(path, "ONNX file")
    try:
        model: ModelProto = onnx.load(str(found))
    except Exception as exc:  # protobuf and onnx raise many classes
        raise ModelError(f"{found} is not a complete ONNX file ({type(exc).__name__}: {exc})") from exc
    text = {p.key: p.value for p in model.metadata_props}.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f"{found} carries no description of fcn-deploy; export it with: fcn-deploy export --weights ..."
        )
    return model, ModelSpec.from_json(text, str(found))


def write_model(model: ModelProto, spec: ModelSpec, path: str | Path) -> None:
    """Write graph, weights and description atomically; one file, or two beyond 2 GB.

    The second file is named after the hash of the graph, so an older model at the same place
    keeps its own weights until the new one is complete.

    Raises:
        UsageError: the place cannot be written, or the disk is full.
    """
    onnx = require("onnx", extra="export")
    target = Path(path)
    set_metadata(model, {METADATA_KEY: spec.to_json()})
    with atomic_output(target) as temporary:
        require_space(target.parent, weight_bytes(model))
        if weight_bytes(model) <= SINGLE_FILE_LIMIT:
            temporary.write_bytes(model.SerializeToString())
            return
        names = hashlib.sha256("".join(t.name for t in model.graph.initializer).encode())
        for tensor in model.graph.initializer:
            names.update(tensor.raw_data)
        data = target.with_name(f"{target.stem}.{names.hexdigest()[:12]}.data")
        with atomic_output(data) as heavy:
            onnx.save(
                model,
                str(temporary),
                save_as_external_data=True,
                all_tensors_to_one_file=True,
                location=heavy.name,
                convert_attribute=False,
            )
            light = onnx.load(str(temporary), load_external_data=False)
            for entry in _locations(light):
                entry.value = data.name
            temporary.write_bytes(light.SerializeToString())
    for old in target.parent.glob(f"{target.stem}.????????????.data"):
        if old != data:
            old.unlink()


@contextmanager
def open_session(model: ModelProto, watched: Iterable[str] = ()) -> Iterator[Any]:
    """An ONNX Runtime CPU session on a graph in memory, that also answers inner float tensors.

    Args:
        model: any graph; it is not changed.
        watched: tensors to answer beside the graph's outputs.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    onnx = require("onnx", extra="export")
    ort = require("onnxruntime", extra="cpu")
    present = {output.name for output in model.graph.output}
    added = [name for name in watched if name not in present]
    kinds = element_types(model)
    outputs = [onnx.helper.make_tensor_value_info(name, kinds[name], None) for name in added]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    model.graph.output.extend(outputs)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source: bytes | str = Path(folder, "probe.onnx").as_posix()
            if weight_bytes(model) <= SINGLE_FILE_LIMIT:
                source = model.SerializeToString()
            else:
                onnx.save(copy.deepcopy(model), source, save_as_external_data=True, location="probe.data")
            yield ort.InferenceSession(
                source,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=WRONG_OPTIMIZERS,
            )
    except ort.capi.onnxruntime_pybind11_state.Fail as exc:
        raise ExportError(f"ONNX Runtime {ort.__version__} refuses the graph: {exc}") from exc
    finally:
        del model.graph.output[len(present) :]


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


def _locations(model: ModelProto) -> Iterator[StringStringEntryProto]:
    for tensor in model.graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph these nodes, in place, and take away the constants that none of them reads."""
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in read:
            del graph.initializer[place]


def find_output(model: ModelProto, op_type: str) -> NodeProto:
    """The one node of this type. Raises ModelError where there is none or more than one."""
    found: list[NodeProto] = [node for node in model.graph.node if node.op_type == op_type]
    if len(found) != 1:
        raise ModelError(f"expected one {op_type} in the deploy graph, found {len(found)}")
    return found[0]


def tidy(model: ModelProto) -> None:
    """Give nodes and tensors the network's own names, in place, and drop the exporter's traces.

    A convolution is named after its layer (``conv3_2``), what it feeds after it
    (``conv3_2.relu``), pooling by number (``pool3``), the rest by operator and order. The
    exporter also leaves file paths of the machine it ran on; they go.
    """
    graph = model.graph
    del graph.value_info[:]
    renamed = {t.name: t.name.removeprefix("model.") for t in graph.initializer}
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
    graph.name = "fcn8s"


def pad_pooling(model: ModelProto) -> None:
    """Write ceil-mode pooling as padding by one row and one column at the end, in place.

    Both make ``ceil(n / 2)`` of ``n``, and the padding never wins a maximum, so no number changes. But
    runtimes differ in ceil mode: OpenVINO refuses a window larger than its input, which a frame of 16
    rows has at pool5, and others are known to lose the mode.
    """
    onnx = require("onnx", extra="export")
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != "MaxPool" or not attributes.get("ceil_mode"):
            continue
        attributes |= {"ceil_mode": 0, "pads": [0, 0, 1, 1]}
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())


def _node_name(node: NodeProto, renamed: dict[str, str], count: dict[str, int]) -> str:
    if node.op_type in ("Conv", "ConvTranspose"):
        layer = renamed[node.input[1]].removesuffix(".weight")
        # upscore2 and upscore_pool4 share one initializer when both hold the same fixed kernel.
        count[layer] = count.get(layer, 0) + 1
        return layer if count[layer] == 1 else f"{layer}.{count[layer]}"
    if node.op_type == "Relu":
        return f"{renamed[node.input[0]]}.relu"
    kind = "pool" if node.op_type == "MaxPool" else node.op_type.lower()
    count[kind] = count.get(kind, 0) + 1
    return f"{kind}{count[kind]}"


def _name_axes(value: ValueInfoProto) -> None:
    """``[batch, height, width, 3]``, ``[batch, height, width]``, ``[batch, classes, height, width]``."""
    dims = value.type.tensor_type.shape.dim
    first = 2 if value.name == "logits" else 1
    for axis, name in ((0, "batch"), (first, "height"), (first + 1, "width")):
        dims[axis].dim_param = name
