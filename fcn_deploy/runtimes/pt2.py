"""``.pt2`` artefacts: an exported PyTorch program with its spec inside, and ``NAME.pt2.json`` beside it.

A program is executable input: where ``torch.export.load`` cannot read a file safely it unpickles it, which
can run any code. So a file is opened only where its SHA-256 is that of its manifest or one that the user
knows, or where the user trusts it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fcn_deploy.errors import ModelError
from fcn_deploy.files import sha256_of, write_text
from fcn_deploy.runtimes.backend import spec_of
from fcn_deploy.runtimes.known_hash import check_expected
from fcn_deploy.runtimes.parameters import count_parameters
from fcn_deploy.spec import METADATA_KEY, ModelSpec

SUFFIX = ".pt2"
_EXTRA = "extra/"
"""Folder of what was added to a program; PyTorch's loader leaves it alone."""
_SPEC = f"{_EXTRA}{METADATA_KEY}"


_WEIGHTS = "data/weights/model_weights_config.json"
_TYPES = {6: "f16", 7: "f32", 8: "f64", 13: "bf16"}
"""Numbers of the types of weights in ``torch._export.serde.schema.ScalarType``."""
_LARGEST = 1 << 26
"""Bytes of a description or a list of weights, at most."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError)
"""What reading a damaged archive raises; NotImplementedError is a RuntimeError, UnicodeDecodeError a
ValueError."""


def manifest_path(path: Path) -> Path:
    """``NAME.pt2.json`` beside ``NAME.pt2``."""
    return path.with_name(f"{path.name}.json")


def write_manifest(path: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a file that was just written.

    Args:
        path: the artefact.
        facts: what else to record, such as the version of PyTorch.
    """
    write_text(
        manifest_path(path), json.dumps({"schema": 1, "sha256": sha256_of(path), **facts}, indent=1) + "\n"
    )


def check_trust(path: Path, expect_sha256: str | None, trust: bool) -> None:
    """Refuse a program that may not be opened.

    Args:
        path: the artefact.
        expect_sha256: the hash that the user knows from another place.
        trust: whether the user takes the file as it is.

    Raises:
        UsageError: ``expect_sha256`` is not a hash.
        ModelError: the hash differs, or there is nothing to compare it with.
    """
    if expect_sha256 is not None:
        check_expected(path, sha256_of(path), expect_sha256, ModelError)
        return
    if trust:
        return
    manifest = manifest_path(path)
    if not manifest.is_file():
        raise ModelError(
            f"{path} is a program, which can run any code when it is opened, and its manifest "
            f"{manifest.name} is not beside it; copy both files, give the hash that you know "
            "(--expect-sha256), or --trust it"
        )
    if _hash_in(manifest) != sha256_of(path):
        raise ModelError(
            f"{path} is not the program that {manifest.name} was written for; copy both again, or export it "
            "again"
        )


def _hash_in(manifest: Path) -> str:
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
        return str(data["sha256"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{manifest} is damaged ({type(exc).__name__}); copy it again beside its program"
        ) from exc


def read_pt2_spec(path: Path) -> ModelSpec:
    """The spec inside a program; needs no PyTorch and runs nothing.

    Raises:
        ModelError: the file is damaged, or has none.
    """
    with _opened(path) as archive:
        found = next((name for name in archive.namelist() if _within(name) == _SPEC), None)
        text = None if found is None else _read(archive, found).decode()
    return spec_of(text, path)


def parameters_of_program(path: Path) -> dict[str, int]:
    """How many numbers the weights in a program are, by type; nothing where its archive does not say it."""
    with _opened(path) as archive:
        found = next((name for name in archive.namelist() if _within(name) == _WEIGHTS), None)
        listed = {} if found is None else json.loads(_read(archive, found))["config"]
        weights = {one["path_name"]: one["tensor_meta"] for one in listed.values() if one["is_param"]}
        return count_parameters(
            (_TYPES.get(one["dtype"], "other"), [length["as_int"] for length in one["sizes"]])
            for one in weights.values()
        )


def content_of_program(path: Path) -> str:
    """SHA-256 over names and bytes of what is in the archive, without what was added to the program."""
    digest = hashlib.sha256()
    with _opened(path) as archive:
        for name in sorted(archive.namelist()):
            if _within(name).startswith(_EXTRA):
                continue
            digest.update(_within(name).encode())
            with archive.open(name) as part:
                for block in iter(lambda: part.read(1 << 20), b""):
                    digest.update(block)
    return digest.hexdigest()


def add_spec(path: Path, spec: ModelSpec) -> None:
    """Add the spec to a program that :func:`torch.export.save` wrote."""
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        # Its own date: the same program is the same bytes.
        archive.writestr(zipfile.ZipInfo(f"{folder}/{_SPEC}"), spec.to_json())


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A small part of an archive, which may say that it is large."""
    with archive.open(name) as part:
        data = part.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"{name} is larger than {_LARGEST} bytes")
    return data


def _within(name: str) -> str:
    """A name without the archive's own folder."""
    return name.partition("/")[2]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGED as exc:
        raise ModelError(f"{path} is not a complete .pt2 file ({type(exc).__name__}); copy it again") from exc
