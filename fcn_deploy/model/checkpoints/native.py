"""Our own safetensors: weights and description in one file."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, write_bytes
from fcn_deploy.model.checkpoints.containers import SAFETENSORS, container_of
from fcn_deploy.model.checkpoints.networks import rebuild
from fcn_deploy.model.checkpoints.read import read
from fcn_deploy.model.network import Network
from fcn_deploy.safetensors_content import content_of
from fcn_deploy.spec import METADATA_KEY, ModelSpec


def load_safetensors(path: str | Path) -> tuple[Network, ModelSpec]:
    """Load an artefact that :func:`save_safetensors` wrote.

    Raises:
        UsageError: the file cannot be read.
        ModelError: it is damaged, or is a plain checkpoint without a model description.
    """
    found = input_file(path, "model")
    if container_of(found) == SAFETENSORS:
        stored = read(found)
        if METADATA_KEY in stored.metadata:
            spec = ModelSpec.from_json(stored.metadata[METADATA_KEY], str(path))
            return rebuild(found, stored.state, spec), spec
    raise ModelError(
        f"{path} holds weights but no model description; make an artefact of it first: "
        f"fcn-deploy export --weights {path} --variant ... -o model.safetensors"
    )


def save_safetensors(model: Network, spec: ModelSpec, path: str | Path, *, dtype: str = "fp32") -> ModelSpec:
    """Write weights and description as one file, atomically.

    Args:
        model: the network.
        spec: its description, stored under :data:`METADATA_KEY`.
        path: ends in ``.safetensors``.
        dtype: ``fp32``, or ``fp16`` to store half the bytes (the weights are rounded).

    Returns:
        The description as written, with its digest.

    Raises:
        UsageError: the file cannot be written.
        ModelError: a weight does not fit into fp16.
    """
    if dtype not in ("fp32", "fp16"):
        raise UsageError(f"weights are saved as fp32 or fp16, not {dtype!r}")
    target = torch.float16 if dtype == "fp16" else torch.float32
    tensors = {k: v.detach().to(target).contiguous() for k, v in model.state_dict().items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{key} has values that {dtype} cannot hold; save it as fp32")
    spec = spec.with_digest(content_of(safetensors.torch.save(tensors)))
    write_bytes(path, safetensors.torch.save(tensors, metadata={METADATA_KEY: spec.to_json()}))
    return spec
