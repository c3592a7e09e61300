"""The answers file (``.npz``): frames, and the logits or labels of the original network for them.

===============  ======================  ==========================================================
array            dtype                   shape and meaning
===============  ======================  ==========================================================
``frames``       uint8                   ``[N, H, W, 3]``, before any preparation
``logits``       float                   ``[N, classes, H, W]``; this, ``labels``, or both
``labels``       integer                 ``[N, H, W]``, class ids; 255 is not compared
``color_order``  text                    ``rgb`` or ``bgr``: of ``frames``
``classes``      text, optional          ``[classes]``, names by class id
``note``         text, optional          what the original is
===============  ======================  ==========================================================

Frames of several sizes are in ``frames_0``, ``frames_1`` and so on, each with its ``logits_0`` or
``labels_0``. Nothing in the file is unpickled, and the types and shapes of all arrays are checked before any
is read.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.images import Image
from fcn_deploy.errors import SourceError
from fcn_deploy.files import input_file, sha256_of

_GROUPED = re.compile(r"(frames|logits|labels)(_\d+)?")
_TEXTS = ("color_order", "classes", "note")
_NPY_VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise for files that are damaged, encrypted or something else."""


@dataclass(frozen=True)
class OriginalAnswer:
    """One frame, and what the original network answered for it."""

    name: str
    """Where it is in the file, such as ``frames_1[0]``."""
    image: Image
    """uint8 ``[H, W, 3]`` in the file's colour order."""
    labels: NDArray[np.uint8] | None
    """uint8 ``[H, W]``; None where the file has logits alone."""
    logits: NDArray[np.float32] | None
    """float32 ``[classes, H, W]``; None where the file has labels alone."""


@dataclass(frozen=True)
class _Header:
    """Shape and type of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class OriginalAnswers:
    """An answers file that was opened and checked; the arrays of one size are in memory at a time.

    Args:
        path: an ``.npz`` file as the module describes it.

    Raises:
        UsageError: the file is missing or may not be read.
        SourceError: it is no such file; names the array, what was expected and what was found.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = input_file(path, "answers file, .npz")
        headers = self._headers = _headers(self.path)
        _check_names(self.path, headers)
        self._groups = [_checked_group(self.path, headers, suffix) for suffix in _suffixes(headers)]
        self._loaded: tuple[str, dict[str, NDArray[Any]]] = ("?", {})
        self.color_order = self._text("color_order")
        if self.color_order not in ("rgb", "bgr"):
            raise SourceError(
                f"{self.path}: color_order must be rgb or bgr, the order of the channels in frames, not "
                f"{self.color_order!r}"
            )
        names = self._array("classes") if "classes" in headers else np.array([], str)
        self.classes = tuple(str(name) for name in names.reshape(-1))
        """Names by class id; empty where the file has none."""
        self.note = self._text("note") if "note" in headers else ""
        self.sha256 = sha256_of(self.path)
        """Of the file."""

    def __len__(self) -> int:
        return sum(count for _, count in self._groups)

    def __getitem__(self, index: int) -> OriginalAnswer:
        """One frame by its number in the whole file.

        Raises:
            IndexError: there are fewer.
            SourceError: its arrays are damaged, or a logit is not finite.
        """
        for suffix, count in self._groups:
            if index < count:
                return self._answer(suffix, index)
            index -= count
        raise IndexError("there are fewer frames")

    def __iter__(self) -> Iterator[OriginalAnswer]:
        return (self[index] for index in range(len(self)))

    def _answer(self, suffix: str, index: int) -> OriginalAnswer:
        if self._loaded[0] != suffix:
            present = [name for name in ("frames", "logits", "labels") if name + suffix in self._headers]
            self._loaded = (suffix, {name: self._array(name + suffix) for name in present})
        arrays, name = self._loaded[1], f"frames{suffix}[{index}]"
        labels = logits = None
        if "labels" in arrays:
            labels = _as_labels(arrays["labels"][index], f"{self.path}: labels{suffix}[{index}]")
        if "logits" in arrays:
            logits = np.asarray(arrays["logits"][index], np.float32)
            if not np.isfinite(logits).all():
                raise SourceError(f"{self.path}: logits{suffix}[{index}] has values that are not finite")
        return OriginalAnswer(name, np.ascontiguousarray(arrays["frames"][index]), labels, logits)

    def _text(self, name: str) -> str:
        value = self._array(name)
        if value.size != 1:
            raise SourceError(f"{self.path}: {name} must be one text, found {list(value.shape)} of them")
        return str(value.reshape(-1)[0])

    def _array(self, name: str) -> NDArray[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                array: NDArray[Any] = arrays[name]
        except _UNREADABLE as exc:
            raise SourceError(
                f"{self.path}: {name} cannot be read ({exc}); the file is damaged, write it again"
            ) from exc
        return array.astype(str) if array.dtype.kind == "S" else array


def _headers(path: Path) -> dict[str, _Header]:
    """Shape and type of each array, by name, without reading one. Raises SourceError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                part.filename.removesuffix(".npy"): _header(path, archive, part)
                for part in archive.infolist()
            }
    except _UNREADABLE as exc:
        raise SourceError(
            f"{path} is no answers file ({exc}); write one with numpy.savez: frames, color_order, and logits "
            "or labels"
        ) from exc


def _header(path: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> _Header:
    name = part.filename.removesuffix(".npy")
    with archive.open(part) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _NPY_VERSIONS:
            raise ValueError(f"{name} is a structured array")
        shape, _, dtype = _NPY_VERSIONS[version](stream)
        held = part.file_size - stream.tell()
    if dtype.hasobject:
        raise SourceError(
            f"{path}: {name} holds Python objects, which are not read, as they can run code; save plain "
            "arrays (frames of several sizes as frames_0, frames_1 and so on)"
        )
    # Otherwise a few bytes could claim an array that fills the memory.
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != held:
        raise ValueError(f"{name} is {held} bytes long, which does not fit its shape {list(shape)}")
    return _Header(shape, dtype)


def _check_names(path: Path, headers: dict[str, _Header]) -> None:
    for name in headers:
        if name not in _TEXTS and not _GROUPED.fullmatch(name):
            raise SourceError(
                f"{path}: {name} is none of frames, logits and labels (each also with _0, _1 and so on), "
                f"{', '.join(_TEXTS)}; rename it or leave it out"
            )
        grouped = _GROUPED.fullmatch(name)
        if grouped and f"frames{grouped[2] or ''}" not in headers:
            raise SourceError(
                f"{path}: {name} has no frames{grouped[2] or ''}, uint8 [N, H, W, 3], beside it"
            )
    if "color_order" not in headers:
        raise SourceError(
            f"{path}: color_order is missing; add color_order='rgb' or 'bgr', that of the frames"
        )
    if not _suffixes(headers):
        raise SourceError(f"{path}: frames is missing, uint8 [N, H, W, 3]")
    for name in _TEXTS:
        if name in headers and headers[name].dtype.kind not in "US":
            raise SourceError(f"{path}: {name} must be text, found {headers[name]}")


def _suffixes(headers: dict[str, _Header]) -> list[str]:
    """``""``, ``_0``, ``_1`` and so on, of each array of frames."""
    found = [name.removeprefix("frames") for name in headers if name.startswith("frames")]
    return sorted(found, key=lambda suffix: int(suffix[1:] or -1))


def _checked_group(path: Path, headers: dict[str, _Header], suffix: str) -> tuple[str, int]:
    """The suffix and how many frames it has, where their arrays fit each other. Raises SourceError."""
    frames = headers["frames" + suffix]
    if frames.dtype != np.uint8 or len(frames.shape) != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise SourceError(
            f"{path}: frames{suffix} must be uint8 [N, H, W, 3], the frames as a camera gives them, before "
            f"any preparation; found {frames}"
        )
    count, height, width, _ = frames.shape
    stated = {
        "logits": ("f", "float", (count, None, height, width)),
        "labels": ("uib", "integers", (count, height, width)),
    }
    present = [name for name in stated if name + suffix in headers]
    if not present:
        raise SourceError(f"{path}: frames{suffix} has neither logits{suffix} nor labels{suffix}")
    for name in present:
        kinds, words, shape = stated[name]
        found = headers[name + suffix]
        fits = len(found.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(shape, found.shape, strict=True)
        )
        if not fits or found.dtype.kind not in kinds:
            wanted = ", ".join("classes" if length is None else str(length) for length in shape)
            raise SourceError(
                f"{path}: {name}{suffix} must be {words} [{wanted}], at the size of its frames; found {found}"
            )
    return suffix, count


def _as_labels(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 255:
        raise SourceError(f"{name} has values from {values.min()} to {values.max()}; class ids are 0 to 255")
    return np.asarray(values, np.uint8)
