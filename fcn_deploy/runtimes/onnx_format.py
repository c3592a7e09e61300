"""ONNX artefacts: description, identity and graph, for every backend that reads ``.onnx``."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.errors import MissingDependency, ModelError
from fcn_deploy.files import sha256_of
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.backend import Backend, Description, Options, spec_of
from fcn_deploy.runtimes.location import Location
from fcn_deploy.runtimes.onnx_file import (
    CHUNK,
    GRAPH,
    METADATA_PROPS,
    data_file,
    entries,
    external_data,
    mapped,
    message_fields,
)
from fcn_deploy.runtimes.parameters import count_in_words, count_parameters
from fcn_deploy.spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    from onnx import ValueInfoProto

SUFFIX = ".onnx"


class OnnxFormat(Backend[Options]):
    """A backend that reads ONNX files as ``fcn-deploy export`` writes them."""

    suffixes = (SUFFIX,)
    written_by = "fcn-deploy export"

    def read_spec(self, location: Location) -> ModelSpec:
        """Read from the file's bytes; the onnx package is not needed. Raises ModelError."""
        return read_onnx_spec(Path(location))

    def identity(self, location: Location) -> str:
        """SHA-256 of the file without its metadata, then of its external data in order of name.

        Raises:
            ModelError: the file is damaged.
        """
        path = Path(location)
        digest = hashlib.sha256()
        with mapped(path) as data:
            kept = [field for field in message_fields(data, 0, len(data)) if field.number != METADATA_PROPS]
            locations = {part.location for part in external_data(data)}
        with open(path, "rb") as stream:  # read, because page faults in a large mapping block other threads
            for field in kept:
                stream.seek(field.record)
                for start in range(field.record, field.end, CHUNK):
                    digest.update(stream.read(min(CHUNK, field.end - start)))
        for external in sorted(locations):
            digest.update(bytes.fromhex(sha256_of(data_file(path, external))))
        return digest.hexdigest()

    def content(self, location: Location) -> str:
        """As :meth:`identity`."""
        return self.identity(location)

    def describe(self, location: Location) -> Description:
        """Inputs, outputs and operators of the graph, where the onnx package is installed."""
        try:
            facts = _graph(Path(location))
        except MissingDependency as exc:
            return Description({"unknown": str(exc)}, [("graph", f"not shown: {exc}")])
        rows = [
            ("weights", count_in_words(facts["parameters"])),
            ("format", f"opset {facts['opset']}, IR {facts['ir_version']}"),
            *(("input", _value_in_words(value)) for value in facts["inputs"]),
            *(("output", _value_in_words(value)) for value in facts["outputs"]),
            ("operators", ", ".join(f"{n} {op}" for op, n in facts["operators"].items())),
        ]
        return Description(facts, rows)


def is_onnx_file(location: Location) -> bool:
    """Whether an artefact is an ONNX file, by its suffix."""
    return isinstance(location, Path) and location.suffix.lower() == SUFFIX


def read_onnx_spec(path: Path) -> ModelSpec:
    """The spec in the metadata of an ONNX file.

    Raises:
        ModelError: the file is damaged, or has none.
    """
    with mapped(path) as data:
        fields = list(message_fields(data, 0, len(data)))
        if not any(field.number == GRAPH for field in fields):
            raise ValueError("there is no graph in it")
        text = dict(entries(data, fields, METADATA_PROPS)).get(METADATA_KEY)
    return spec_of(text, path)


def _graph(path: Path) -> dict[str, Any]:
    onnx = require("onnx", extra="export")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as exc:  # protobuf and onnx raise many classes
        raise ModelError(
            f"{path} is not a complete ONNX file ({type(exc).__name__}); export it again"
        ) from exc
    graph = model.graph
    return {
        "opset": max((entry.version for entry in model.opset_import if not entry.domain), default=None),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(onnx, value) for value in graph.input],
        "outputs": [_value(onnx, value) for value in graph.output],
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        "parameters": count_parameters(
            (onnx.TensorProto.DataType.Name(t.data_type), t.dims) for t in graph.initializer
        ),
    }


def _value(onnx: Any, value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "type": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [axis.dim_param or axis.dim_value for axis in tensor.shape.dim],
    }


def _value_in_words(value: dict[str, Any]) -> str:
    return f"{value['name']} {value['type']} [{', '.join(map(str, value['shape']))}]"
