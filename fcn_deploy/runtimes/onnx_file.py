"""An ONNX file read in place, without the onnx package.

An ONNX file is a protocol buffer. The few fields needed here are found in place: a device needs no onnx
package, weights are skipped without being read, and a file that would make ONNX Runtime read something
outside its own folder is refused before it can (up to 1.23 it follows any path).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fcn_deploy.errors import ModelError

METADATA_PROPS, _EXTERNAL_DATA = 14, 13

GRAPH, _INITIALIZER, _LENGTH_DELIMITED = 7, 5, 2

CHUNK = 1 << 20

_SMALL_TENSOR = 1024
"""The most bytes of a tensor that :func:`without_weights` keeps; enough for sizes and indices."""

_TENSORS_IN: dict[str, dict[int, str]] = {
    "ModelProto": {GRAPH: "GraphProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
"""Message -> field number -> message in that field, for each path to a tensor (onnx.proto3)."""


class _Field(NamedTuple):
    """One field of a message, as offsets into the file."""

    number: int
    wire_type: int
    record: int
    """Where it starts, its tag included."""
    start: int
    end: int


class _ExternalData(NamedTuple):
    """Where a tensor's bytes are outside the graph."""

    location: str
    offset: int
    length: int


def without_weights(path: Path) -> bytes:
    """An ONNX file without the contents of its larger tensors: the graph, with names, types and shapes.

    The result is quick to parse, however large the model is.

    Raises:
        ModelError: the file is damaged.
    """
    with mapped(path) as data:
        model = []
        for field in message_fields(data, 0, len(data)):
            if field.number != GRAPH:
                model.append(data[field.record : field.end])
                continue
            graph = b"".join(
                _light_initializer(data, part)
                if part.number == _INITIALIZER
                else data[part.record : part.end]
                for part in message_fields(data, field.start, field.end)
            )
            model.append(_message(GRAPH, graph))
        return b"".join(model)


def _light_initializer(data: mmap.mmap, tensor: _Field) -> bytes:
    parts = message_fields(data, tensor.start, tensor.end)
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

    The data may be in the folder of ``path`` or below; where ``path`` is a symbolic link, also in the
    folder that it points to. Links are resolved first, so none can point outside.

    Raises:
        ModelError: names the data file and what is wrong with it.
    """
    with mapped(path) as data:
        parts = set(external_data(data))
    for part in sorted(parts):
        size = data_file(path, part.location).stat().st_size
        if part.offset + part.length > size:
            raise ModelError(
                f"{path}: its weights file {part.location} has {size} bytes and at least "
                f"{part.offset + part.length} are needed; it was probably cut off, copy it again"
            )


def data_file(path: Path, location: str) -> Path:
    """The file that external data is read from. Raises ModelError where it is outside or missing."""
    allowed = (path.parent.resolve(), path.resolve().parent)
    try:
        target = (path.parent / location).resolve()
        exists = target.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a zero byte
        target, exists = Path(), False
    if Path(location).is_absolute() or (exists and not any(folder in target.parents for folder in allowed)):
        raise ModelError(
            f"{path} reads its weights from {location!r}, outside its own folder, which is refused; "
            "put the weights beside the model and export it again"
        )
    if not exists:
        raise ModelError(
            f"{path}: its weights file {location!r} is missing; it belongs beside the model, copy both files"
        )
    return target


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of an ONNX file; an error in reading them becomes a ModelError."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            yield data
        except (ValueError, IndexError, RecursionError) as exc:
            raise ModelError(
                f"{path} is not a complete ONNX file ({exc}); copy it again, or export it again"
            ) from exc


def message_fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
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
    """A little-endian base-128 number, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"the number before byte {position} has no end")


def entries(data: mmap.mmap, fields: list[_Field], number: int) -> Iterator[tuple[str, str]]:
    """Key and value of each StringStringEntryProto among ``fields`` that has this number."""
    for entry in fields:
        if entry.number == number and entry.wire_type == _LENGTH_DELIMITED:
            parts = {
                f.number: data[f.start : f.end].decode() for f in message_fields(data, entry.start, entry.end)
            }
            yield parts.get(1, ""), parts.get(2, "")


def external_data(data: mmap.mmap) -> Iterator[_ExternalData]:
    """All external data that tensors of the model refer to."""
    for tensor in _tensors(data, _Field(0, _LENGTH_DELIMITED, 0, 0, len(data)), "ModelProto"):
        found = dict(entries(data, list(message_fields(data, tensor.start, tensor.end)), _EXTERNAL_DATA))
        if found:
            yield _ExternalData(
                found.get("location", ""), int(found.get("offset") or 0), int(found.get("length") or 0)
            )


def _tensors(data: mmap.mmap, message: _Field, kind: str) -> Iterator[_Field]:
    """Every tensor inside a message: initializers, constants, those of subgraphs and functions."""
    for field in message_fields(data, message.start, message.end):
        held = _TENSORS_IN[kind].get(field.number) if field.wire_type == _LENGTH_DELIMITED else None
        if held == "TensorProto":
            yield field
        elif held is not None:
            yield from _tensors(data, field, held)
