"""What an artefact says about itself, read from its bytes before any backend opens it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, sha256_of
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
from fcn_deploy.runtimes.tensorrt.sidecar import read_sidecar
from fcn_deploy.spec import METADATA_KEY, ModelSpec

SUFFIXES = (".onnx", ".safetensors", ".engine")
_CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".tar")


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
    with mapped(found) as data:
        kept = [field for field in message_fields(data, 0, len(data)) if field.number != METADATA_PROPS]
        locations = {part.location for part in external_data(data)}
    with open(found, "rb") as stream:  # read, because faulting in a large mapping holds up other threads
        for field in kept:
            stream.seek(field.record)
            for start in range(field.record, field.end, CHUNK):
                digest.update(stream.read(min(CHUNK, field.end - start)))
    for location in sorted(locations):
        digest.update(bytes.fromhex(sha256_of(data_file(found, location))))
    return digest.hexdigest()


def _of_onnx(path: Path) -> str | None:
    with mapped(path) as data:
        fields = list(message_fields(data, 0, len(data)))
        if not any(field.number == GRAPH for field in fields):
            raise ValueError("there is no graph in it")
        return dict(entries(data, fields, METADATA_PROPS)).get(METADATA_KEY)


def _of_safetensors(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
    except (safetensors.SafetensorError, OSError) as exc:
        raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
    return metadata.get(METADATA_KEY)
