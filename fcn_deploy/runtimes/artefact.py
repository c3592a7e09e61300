"""What an artefact says about itself, read from its bytes before any backend opens it.

An ONNX file is a protocol buffer. The few fields wanted here are walked to in place: a device
needs no onnx package for it, weights are passed over without being read, and a file that would
make ONNX Runtime read something outside its own folder is refused before it can (up to 1.23 it
follows any path).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import safetensors

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, sha256_of
from fcn_deploy.runtimes.sidecar import read_sidecar
from fcn_deploy.spec import METADATA_KEY, ModelSpec

SUFFIXES = (".onnx", ".safetensors", ".engine")
_CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".tar")

_METADATA_PROPS, _EXTERNAL_DATA = 14, 13
_GRAPH, _INITIALIZER, _LENGTH_DELIMITED = 7, 5, 2
_CHUNK = 1 << 20
_SMALL_TENSOR = 1024
"""Bytes that a tensor may have to be kept by :func:`without_weights`: sizes and indices do."""
_TENSORS_IN: dict[str, dict[int, str]] = {
    "ModelProto": {_GRAPH: "GraphProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
"""Message -> field number -> message held there, along every way to a tensor (onnx.proto3)."""


class _Field(NamedTuple):
    """One field of a message, as offsets into the file."""

    number: int
    wire_type: int
    record: int
    """Where it starts, its tag included."""
    start: int
    end: int


class _ExternalData(NamedTuple):
    """Where a tensor's bytes lie beside the graph."""

    location: str
    offset: int
    length: int


def artefact_file(path: str | Path) -> Path:
    """``path`` as an existing file whose suffix is that of an artefact.

    Raises:
        UsageError: it is missing, a folder, empty, unreadable, a checkpoint that has to be exported
            first, or something else.
    """
    found = input_file(path, "artefact")
    suffix = found.suffix.lower()
    if suffix in _CHECKPOINTS:
        raise UsageError(
            f"{found} is a checkpoint, which does not say how frames are prepared; export it first: "
            f"fcn-deploy export --weights {found} -o {found.stem}.onnx"
        )
    if suffix not in SUFFIXES:
        raise UsageError(f"{found} is no artefact; expected a file ending in {', '.join(SUFFIXES)}")
    return found


def read_spec(path: str | Path) -> ModelSpec:
    """The description that an artefact carries; needs neither torch nor onnx nor a backend.

    Args:
        path: ``.onnx``, ``.safetensors``, or ``.engine`` with ``NAME.engine.json`` beside it.

    Raises:
        UsageError: it cannot be read, or is no artefact.
        ModelError: it is damaged, or carries no description.
        EngineError: an engine has no sidecar beside it, a damaged one, or was cut off.
    """
    found = artefact_file(path)
    suffix = found.suffix.lower()
    if suffix == ".engine":
        return read_sidecar(found).spec
    text = _of_onnx(found) if suffix == ".onnx" else _of_safetensors(found)
    if text is None:
        raise ModelError(
            f"{found} carries no description of fcn-deploy, so its classes and the colour order, mean and "
            "scale of its frames are unknown; make it with: fcn-deploy export --weights ... "
            f"-o {found.name}"
        )
    return ModelSpec.from_json(text, str(found))


def identity(path: str | Path) -> str:
    """What a child's provenance calls this artefact: 64 hexadecimal digits.

    The SHA-256 of the file; of an ONNX file with its metadata left out, so that a change of the
    description changes no identity, and followed by its external data, if any, in order of name.

    Raises:
        UsageError: it cannot be read, or is no artefact.
        ModelError: an ONNX file is damaged.
    """
    found = artefact_file(path)
    if found.suffix.lower() != ".onnx":
        return sha256_of(found)
    digest = hashlib.sha256()
    with _mapped(found) as data:
        kept = [field for field in _fields(data, 0, len(data)) if field.number != _METADATA_PROPS]
        locations = {part.location for part in _external_data(data)}
    with open(found, "rb") as stream:  # read, because faulting in a large mapping holds up other threads
        for field in kept:
            stream.seek(field.record)
            for start in range(field.record, field.end, _CHUNK):
                digest.update(stream.read(min(_CHUNK, field.end - start)))
    for location in sorted(locations):
        digest.update(bytes.fromhex(sha256_of(_data_file(found, location))))
    return digest.hexdigest()


def without_weights(path: Path) -> bytes:
    """An ONNX file without the contents of its larger tensors: the graph, with names, types and shapes.

    What is left parses in no time, however large the model is.

    Raises:
        ModelError: the file is damaged.
    """
    with _mapped(path) as data:
        model = []
        for field in _fields(data, 0, len(data)):
            if field.number != _GRAPH:
                model.append(data[field.record : field.end])
                continue
            graph = b"".join(
                _light_initializer(data, part)
                if part.number == _INITIALIZER
                else data[part.record : part.end]
                for part in _fields(data, field.start, field.end)
            )
            model.append(_message(_GRAPH, graph))
        return b"".join(model)


def _light_initializer(data: mmap.mmap, tensor: _Field) -> bytes:
    parts = _fields(data, tensor.start, tensor.end)
    return _message(
        _INITIALIZER,
        b"".join(data[p.record : p.end] for p in parts if p.end - p.start <= _SMALL_TENSOR),
    )


def _message(number: int, payload: bytes) -> bytes:
    """A length-delimited field with its tag."""
    head = bytearray()
    for value in (number << 3 | _LENGTH_DELIMITED, len(payload)):
        while value > 0x7F:
            head.append(value & 0x7F | 0x80)
            value >>= 7
        head.append(value)
    return bytes(head) + payload


def check_external_data(path: Path) -> None:
    """Refuse an ONNX file whose external data lies elsewhere, is missing or was cut off.

    The data may lie in the folder of ``path`` or below; where ``path`` is a symbolic link, in the
    folder that it leads to as well. Links are followed first, so none leads out.

    Raises:
        ModelError: names the data file and what is wrong with it.
    """
    with _mapped(path) as data:
        parts = set(_external_data(data))
    for part in sorted(parts):
        size = _data_file(path, part.location).stat().st_size
        if part.offset + part.length > size:
            raise ModelError(
                f"{path}: its weights file {part.location} has {size} bytes and at least "
                f"{part.offset + part.length} are needed; it was probably cut off, copy it again"
            )


def _data_file(path: Path, location: str) -> Path:
    """The file that a location of external data means. Raises ModelError where it may not be read."""
    allowed = (path.parent.resolve(), path.resolve().parent)
    try:
        target = (path.parent / location).resolve()
        exists = target.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a zero byte
        target, exists = Path(), False
    if Path(location).is_absolute() or (exists and not any(folder in target.parents for folder in allowed)):
        raise ModelError(
            f"{path} wants its weights read from {location!r}, outside its own folder, which is not done; "
            "put the weights beside the model and export it again"
        )
    if not exists:
        raise ModelError(
            f"{path}: its weights file {location!r} is missing; it belongs beside the model, copy both files"
        )
    return target


def _of_onnx(path: Path) -> str | None:
    with _mapped(path) as data:
        fields = list(_fields(data, 0, len(data)))
        if not any(field.number == _GRAPH for field in fields):
            raise ValueError("there is no graph in it")
        return dict(_entries(data, fields, _METADATA_PROPS)).get(METADATA_KEY)


def _of_safetensors(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
    except (safetensors.SafetensorError, OSError) as exc:
        raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
    return metadata.get(METADATA_KEY)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of an ONNX file; whatever is malformed in them becomes a ModelError."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            yield data
        except (ValueError, IndexError, RecursionError) as exc:
            raise ModelError(
                f"{path} is not a complete ONNX file ({exc}); copy it again, or export it again"
            ) from exc


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message between two offsets, payloads unread.

    Source: https://protobuf.dev/programming-guides/encoding/ - a tag of number and wire type, then
    a varint (0), 8 bytes (1), a length and as many bytes (2), or 4 bytes (5).
    """
    position = start
    while position < end:
        record = position
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        length = {1: 8, 5: 4}.get(wire_type, 0)
        if wire_type == _LENGTH_DELIMITED:
            length, position = _varint(data, position)
        first = position
        if wire_type == 0:
            _, position = _varint(data, position)
        elif wire_type not in (1, _LENGTH_DELIMITED, 5):
            raise ValueError(f"byte {record} begins no field")
        position += length
        if position > end:
            raise ValueError(f"the field at byte {record} reaches beyond its end")
        yield _Field(number, wire_type, record, first, position)


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """A little-endian base-128 number, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"the number before byte {position} has no end")


def _entries(data: mmap.mmap, fields: list[_Field], number: int) -> Iterator[tuple[str, str]]:
    """Key and value of each StringStringEntryProto among ``fields`` that has this number."""
    for entry in fields:
        if entry.number == number and entry.wire_type == _LENGTH_DELIMITED:
            parts = {f.number: data[f.start : f.end].decode() for f in _fields(data, entry.start, entry.end)}
            yield parts.get(1, ""), parts.get(2, "")


def _external_data(data: mmap.mmap) -> Iterator[_ExternalData]:
    """Every piece of external data that any tensor of the model names."""
    for tensor in _tensors(data, _Field(0, _LENGTH_DELIMITED, 0, 0, len(data)), "ModelProto"):
        found = dict(_entries(data, list(_fields(data, tensor.start, tensor.end)), _EXTERNAL_DATA))
        if found:
            yield _ExternalData(
                found.get("location", ""), int(found.get("offset") or 0), int(found.get("length") or 0)
            )


def _tensors(data: mmap.mmap, message: _Field, kind: str) -> Iterator[_Field]:
    """Every tensor inside a message: initializers, constants, those of subgraphs and functions."""
    for field in _fields(data, message.start, message.end):
        held = _TENSORS_IN[kind].get(field.number) if field.wire_type == _LENGTH_DELIMITED else None
        if held == "TensorProto":
            yield field
        elif held is not None:
            yield from _tensors(data, field, held)
