"""What an artefact says about itself, before it is opened."""

from __future__ import annotations

import os

from fcn_deploy.runtimes.backend import Description
from fcn_deploy.runtimes.location import locate
from fcn_deploy.runtimes.registry import readers
from fcn_deploy.spec import ModelSpec


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """The description that an artefact carries; needs neither torch nor onnx nor a device.

    Args:
        path: ``.onnx``, ``.safetensors``, ``.engine`` with ``NAME.engine.json`` beside it, or a file or
            URL of another backend.

    Raises:
        UsageError: it cannot be read, or is no artefact.
        ModelError: it is damaged, or carries no description.
        EngineError: an engine has no sidecar beside it, a damaged one, or was cut off.
    """
    location = locate(path)
    return readers(location)[0].read_spec(location)


def identity(path: str | os.PathLike[str]) -> str:
    """What provenance calls this artefact: 64 hexadecimal digits.

    The SHA-256 of a file; of an ONNX file without its metadata, so that another description does not
    change it, and with its external data, if any.

    Raises:
        UsageError: it cannot be read, or is no artefact.
        ModelError: an ONNX file is damaged.
    """
    location = locate(path)
    return readers(location)[0].identity(location)


def describe(path: str | os.PathLike[str]) -> Description:
    """What its format says of an artefact beside the spec, such as operators or profiles.

    Raises:
        UsageError: it cannot be read, or is no artefact.
        ModelError, EngineError: it is damaged.
    """
    location = locate(path)
    return readers(location)[0].describe(location)


def check_digest(path: str | os.PathLike[str]) -> bool | None:
    """Whether an artefact's graph, weights and description are those that were written together.

    It finds what was changed by accident or by another tool. Other metadata of the file are not covered.
    Whoever changes all of it can write a new digest.

    Returns:
        None where there is no digest to compare with: an engine's hash is in its sidecar, and version 0.1
        wrote none.

    Raises:
        UsageError: it cannot be read, or is no artefact.
        ModelError, EngineError: it is damaged.
    """
    location = locate(path)
    backend = readers(location)[0]
    spec, content = backend.read_spec(location), backend.content(location)
    return None if content is None else spec.describes(content)
