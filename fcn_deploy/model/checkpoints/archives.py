"""The two files that torch.save writes: a pickle, and the bytes of the storages that it refers to.

Sizes in a file are claims: what is read stays inside the file, and no storage is larger than it.
Source of both formats: torch/serialization.py.
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.containers import ZIP
from fcn_deploy.model.checkpoints.unpickling import MalformedPickle, Name, Persistent, Pickled, parse

_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, struct.error)
"""What zipfile and torch raise for bytes that are not as they should be."""
_COUNT = 8
"""Bytes of the number of elements before each storage of a legacy file."""
_STORAGES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"BoolStorage": torch.bool, "UntypedStorage": torch.uint8},
    **{"ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
    **{"QInt8Storage": torch.qint8, "QUInt8Storage": torch.quint8, "QInt32Storage": torch.qint32},
}
STORAGE_NAMES = {
    f"{module}.{name}": dtype for module in ("torch", "torch.storage") for name, dtype in _STORAGES.items()
}
"""How pickles name the types of storages."""


class NotSavedByTorch(Exception):
    """A pickle that something else wrote."""


@dataclass(frozen=True)
class Storage:
    """A storage that a pickle refers to, or a part of one."""

    key: str
    dtype: torch.dtype
    root_count: int
    """Elements of the whole storage."""
    start: int
    count: int
    """In elements: all of it, or the part that is meant (files of torch before 0.4 have such views)."""


class Archive(Protocol):
    """An opened file of torch.save."""

    pickled: Pickled

    def read(self, key: str) -> bytearray:
        """The bytes of one storage; :func:`check` has found them to be there."""

    def size(self, key: str) -> int | None:
        """How many bytes a storage has; None where there is none of that key."""


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Archive]:
    """A file of torch.save, with its pickle read as data and all its storages checked.

    Raises:
        MalformedPickle: it is damaged, or a storage is not where or what the pickle says.
        NotSavedByTorch: it is another program's pickle.
        ModelError: it was written on a machine of the other byte order.
    """
    archive: Archive
    try:
        if kind == ZIP:
            with zipfile.ZipFile(path) as found:
                archive = _Zip(path, found)
                _check(archive)
                yield archive
        else:
            with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                archive = _Legacy(path, data)
                _check(archive)
                yield archive
    except _DAMAGED as exc:
        raise MalformedPickle(type(exc).__name__) from exc


def storage_of(reference: Persistent) -> Storage:
    """The storage that a pickle means: ``("storage", type, key, location, elements[, view])``."""
    found = reference.id
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage":
        raise MalformedPickle("it refers to something that is no storage")
    kind, key, count = found[1], found[2], found[4]
    dtype = STORAGE_NAMES.get(kind.path) if isinstance(kind, Name) else None
    if dtype is None or type(key) is not str or not _is_size(count):
        raise MalformedPickle("it refers to a storage that torch.save would not write")
    view = found[5] if len(found) == 6 else None
    if view is None:
        return Storage(key, dtype, count, 0, count)
    if type(view) is not tuple or len(view) != 3 or not _is_size(view[1]) or not _is_size(view[2]):
        raise MalformedPickle("it refers to a part of a storage that torch.save would not write")
    return Storage(key, dtype, count, view[1], view[2])


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


def _check(archive: Archive) -> None:
    """Refuse storages that are not in the file, whole and of the size that the pickle says."""
    for storage in map(storage_of, archive.pickled.persistent):
        size = archive.size(storage.key) or 0
        if storage.root_count * storage.dtype.itemsize != size:
            raise MalformedPickle(f"the storage {storage.key[:20]!r} has not the size that its pickle says")
        if storage.start + storage.count > storage.root_count:
            raise MalformedPickle(f"a part of the storage {storage.key[:20]!r} reaches beyond it")


class _Zip:
    """Records under one folder: ``data.pkl``, ``byteorder`` (since 2.0) and ``data/KEY``."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._records = _records(archive, path.stat().st_size)
        if self._bytes("byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
            raise ModelError(
                f"{path} was written on a machine of the other byte order; save it again on this one"
            )
        self.pickled = parse(io.BytesIO(self._bytes("data.pkl")))

    def read(self, key: str) -> bytearray:
        return bytearray(self._archive.read(self._records[f"data/{key}"]))

    def size(self, key: str) -> int | None:
        record = self._records.get(f"data/{key}")
        return None if record is None else record.file_size

    def _bytes(self, name: str, default: bytes = b"") -> bytes:
        return self._archive.read(self._records[name]) if name in self._records else default


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records by their names below the one folder.

    Our reader of zip archives and torch's must find the same records, so names must differ by more than
    their case; and records that are compressed or overlap could be far larger than the file.
    """
    records: dict[str, zipfile.ZipInfo] = {}
    folder = archive.namelist()[0].partition("/")[0]
    for info in archive.infolist():
        above, _, name = info.filename.partition("/")
        if above != folder or info.compress_type != zipfile.ZIP_STORED:
            raise MalformedPickle("it has folders or compressed records, which torch.save does not write")
        records[name] = info
    if len({name.lower() for name in records}) < len(archive.infolist()):
        raise MalformedPickle("it has two records of one name")
    if sum(info.file_size for info in records.values()) > size:
        raise MalformedPickle("its records are larger than the file")
    return records


class _Legacy:
    """Five pickles: magic number, protocol, system, the object, keys of storages; then the storages."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        if parse(data).value != _MAGIC:
            raise NotSavedByTorch
        parse(data)
        system = parse(data).value
        if isinstance(system, dict) and system.get("little_endian") is not (sys.byteorder == "little"):
            raise ModelError(
                f"{path} was written on a machine of the other byte order; save it again on this one"
            )
        self.pickled = parse(data)
        keys = parse(data).value
        self._data = data
        self._places = _places(data, keys, [storage_of(found) for found in self.pickled.persistent])

    def read(self, key: str) -> bytearray:
        return bytearray(self._data[self._places[key]])

    def size(self, key: str) -> int | None:
        place = self._places.get(key)
        return None if place is None else place.stop - place.start


def _places(data: mmap.mmap, keys: object, storages: list[Storage]) -> Mapping[str, slice]:
    """Where the bytes of each storage are, in the order of their keys."""
    sizes = {storage.key: storage.dtype.itemsize for storage in storages}
    places: dict[str, slice] = {}
    start = data.tell()
    for key in keys if isinstance(keys, list) else ():
        if type(key) is not str or key not in sizes or key in places:
            raise MalformedPickle("it holds a storage that its pickle does not refer to")
        count = int.from_bytes(data[start : start + _COUNT], "little")
        start, stop = start + _COUNT, start + _COUNT + count * sizes[key]
        if stop > len(data):
            raise MalformedPickle("it ends before its storages do")
        places[key] = slice(start, stop)
        start = stop
    return places
