"""``fcn-deploy inspect``: what an artefact is, where it comes from, and what was verified."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.cli import console, options
from fcn_deploy.describe import chain, describe, megabytes
from fcn_deploy.errors import MissingDependency, ModelError
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ValueInfoProto

    from fcn_deploy.spec import ModelSpec


def inspect(artefact: options.Artefact, as_json: options.Json = False) -> None:
    """Show an artefact's description, graph, provenance and evidence."""
    from fcn_deploy.files import sha256_of
    from fcn_deploy.runtimes.artefact import identity, read_spec

    spec = read_spec(artefact)
    facts = {
        "file": str(artefact),
        "bytes": artefact.stat().st_size,
        "sha256": sha256_of(artefact),
        "identity": identity(artefact),
        "contents": _contents(artefact),
        "spec": json.loads(spec.to_json()),
    }
    if as_json:
        console.write_json(facts)
    else:
        _show(facts, spec, console.Printer())


def _contents(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if suffix == ".engine":
        return _engine(path)
    if suffix == ".onnx":
        try:
            return _graph(path)
        except MissingDependency as exc:
            return {"unknown": str(exc)}
    return _tensors(path)


def _engine(path: Path) -> dict[str, Any]:
    """What the sidecar says of an engine; the engine itself is not loaded, and no GPU is needed."""
    from fcn_deploy.runtimes.tensorrt.sidecar import check_engine

    sidecar = check_engine(path)
    target = sidecar.target
    return {
        "tensorrt": sidecar.built_by,
        "version_compatible": sidecar.version_compatible,
        "target": dataclasses.asdict(target),
        "profiles": [str(profile) for profile in sidecar.profiles],
        "layer_precision": sidecar.precision,
        "onnx": sidecar.onnx,
        "build": sidecar.build,
    }


def _graph(path: Path) -> dict[str, Any]:
    """Inputs, outputs and operators of an ONNX file; its weights are not needed."""
    onnx = require("onnx", extra="export")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as exc:  # protobuf and onnx raise many classes
        raise ModelError(
            f"{path} is not a complete ONNX file ({type(exc).__name__}); export it again"
        ) from exc
    weights = [(onnx.TensorProto.DataType.Name(t.data_type), t.dims) for t in model.graph.initializer]
    return {
        "opset": max((entry.version for entry in model.opset_import if not entry.domain), default=None),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(onnx, value) for value in model.graph.input],
        "outputs": [_value(onnx, value) for value in model.graph.output],
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "parameters": _count(weights),
    }


def _value(onnx: Any, value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "type": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [axis.dim_param or axis.dim_value for axis in tensor.shape.dim],
    }


def _tensors(path: Path) -> dict[str, Any]:
    """Names and sizes in a safetensors file, from its header alone."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as opened:
        slices = [opened.get_slice(key) for key in opened.keys()]  # noqa: SIM118
        weights = [(piece.get_dtype(), piece.get_shape()) for piece in slices]
    return {"tensors": len(weights), "parameters": _count(weights)}


def _count(weights: list[tuple[str, Any]]) -> dict[str, int]:
    """Numbers by element type."""
    counted: Counter[str] = Counter()
    for kind, shape in weights:
        counted[kind.lower()] += math.prod(shape)
    return dict(counted.most_common())


def _show(facts: dict[str, Any], spec: ModelSpec, out: console.Printer) -> None:
    out.say(f"{facts['file']} ({megabytes(facts['bytes'])})")
    contents = facts["contents"]
    out.pairs(
        [
            *describe(spec),
            ("sha256", facts["sha256"]),
            ("identity", "" if facts["identity"] == facts["sha256"] else facts["identity"]),
            ("weights", ", ".join(f"{n:,} {kind}" for kind, n in contents.get("parameters", {}).items())),
            *_graph_rows(contents),
            *_engine_rows(contents),
        ],
        indent=2,
    )
    out.say("Comes from")
    for number, link in enumerate(chain(spec) or ["(not recorded)"], start=1):
        out.say(f"  {number}. {link}")


def _graph_rows(contents: dict[str, Any]) -> list[tuple[str, str]]:
    if "unknown" in contents:
        return [("graph", f"not shown: {contents['unknown']}")]
    if "operators" not in contents:
        return []
    return [
        ("format", f"opset {contents['opset']}, IR {contents['ir_version']}"),
        *(("input", _value_words(value)) for value in contents["inputs"]),
        *(("output", _value_words(value)) for value in contents["outputs"]),
        ("operators", ", ".join(f"{n} {op}" for op, n in contents["operators"].items())),
    ]


def _engine_rows(contents: dict[str, Any]) -> list[tuple[str, str]]:
    if "tensorrt" not in contents:
        return []
    target = contents["target"]
    capabilities = ", ".join(target["compute_capabilities"]) + (" and later" if target["later"] else "")
    gpu = f", {target['gpu']}" if target["gpu"] else ""
    later = " or later" if contents["version_compatible"] else ""
    return [
        ("built by", f"{contents['tensorrt']}{later}"),
        ("built for", f"{target['platform']}, compute capability {capabilities}{gpu}"),
        *(("profile", f"{profile} (batch x height x width)") for profile in contents["profiles"]),
        *((word, _precision_words(found)) for word, found in contents["layer_precision"].items()),
    ]


def _precision_words(found: Any) -> str:
    """Layer counts by type, or the sentence that says why there are none."""
    if not isinstance(found, dict):
        return str(found)
    layers = found.get("layers", found)
    return ", ".join(f"{count} layers {kind}" for kind, count in layers.items())


def _value_words(value: dict[str, Any]) -> str:
    return f"{value['name']} {value['type']} [{', '.join(map(str, value['shape']))}]"
