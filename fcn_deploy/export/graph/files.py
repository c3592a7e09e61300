"""ONNX artefacts on disk: reading, identity, and atomic writing with external weights beyond 2 GB."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import atomic_output, input_file, require_space, sha256_of
from fcn_deploy.lazy import require
from fcn_deploy.spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, StringStringEntryProto

SINGLE_FILE_LIMIT = 2**31 - 2**20
"""Protobuf files must be below 2 GiB. Larger weights (1 MiB is left for the graph) go into a second file."""


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all initializers."""
    return sum(len(t.raw_data) or 4 * int(np.prod(t.dims)) for t in model.graph.initializer)


def identity(model: ModelProto) -> str:
    """SHA-256 of graph and weights without metadata, for the provenance of artefacts made from it."""
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
        UsageError: the file cannot be read, or is a ``.pt2`` program.
        ModelError: it is not a complete ONNX file, or has no description of fcn-deploy.
    """
    onnx = require("onnx", extra="export")
    found = input_file(path, "ONNX file")
    if found.suffix.lower() == ".pt2":
        raise UsageError(f"{found} is a program of PyTorch; export the same module to an .onnx file for this")
    try:
        model: ModelProto = onnx.load(str(found))
    except Exception as exc:  # protobuf and onnx raise many classes
        raise ModelError(f"{found} is not a complete ONNX file ({type(exc).__name__}: {exc})") from exc
    text = {p.key: p.value for p in model.metadata_props}.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f"{found} carries no description of fcn-deploy; export it with: fcn-deploy export "
            "--weights ... (a file of another tool: fcn-deploy wrap)"
        )
    return model, ModelSpec.from_json(text, str(found))


def write_model(model: ModelProto, spec: ModelSpec, path: str | Path) -> ModelSpec:
    """Write graph, weights and description atomically; one file, or two beyond 2 GB.

    The second file is named after the hash of the graph, so an older model at the same path
    keeps its own weights until the new one is complete.

    Returns:
        The description as written, with its digest.

    Raises:
        UsageError: the file cannot be written, or the disk is full.
    """
    target = Path(path)
    others = {p.key: p.value for p in model.metadata_props if p.key != METADATA_KEY}
    del model.metadata_props[:]
    data: Path | None = None
    with atomic_output(target) as temporary:
        require_space(target.parent, weight_bytes(model))
        if weight_bytes(model) <= SINGLE_FILE_LIMIT:
            graph = model.SerializeToString(deterministic=True)
            content = hashlib.sha256(graph)
        else:
            graph, data = _with_external_data(model, target, temporary)
            content = hashlib.sha256(graph)
            content.update(bytes.fromhex(sha256_of(data)))
        spec = spec.with_digest(content.hexdigest())
        set_metadata(model, {**others, METADATA_KEY: spec.to_json()})
        # Fields of a message may stand in any order, so the description is appended to what was hashed.
        temporary.write_bytes(graph + _metadata_alone(model))
    for old in target.parent.glob(f"{target.stem}.????????????.data"):
        if old != data:
            old.unlink()
    return spec


def _metadata_alone(model: ModelProto) -> bytes:
    onnx = require("onnx", extra="export")
    alone: ModelProto = onnx.ModelProto()
    alone.metadata_props.extend(model.metadata_props)
    data: bytes = alone.SerializeToString()
    return data


def _with_external_data(model: ModelProto, target: Path, temporary: Path) -> tuple[bytes, Path]:
    """Write the weights to a file; return the graph, which refers to this file, and its path."""
    onnx = require("onnx", extra="export")
    names = hashlib.sha256("".join(t.name for t in model.graph.initializer).encode())
    for tensor in model.graph.initializer:
        names.update(tensor.raw_data)
    data = target.with_name(f"{target.stem}.{names.hexdigest()[:12]}.data")
    with atomic_output(data) as heavy:
        heavy.unlink()  # onnx refuses to write to a file that exists
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
    graph: bytes = light.SerializeToString(deterministic=True)
    return graph, data


def _locations(model: ModelProto) -> Iterator[StringStringEntryProto]:
    for tensor in model.graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == "location")
