"""Any checkpoint file -> its state_dict and metadata, without running code from it.

A checkpoint is untrusted input. What kind of file it is, its content says; pickles are read as data and with
``weights_only=True``, which runs no code, and safetensors hold none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.model.checkpoints.containers import SAFETENSORS, container_of
from fcn_deploy.model.checkpoints.pickled import load_pickled
from fcn_deploy.model.checkpoints.state_dict import find
from fcn_deploy.model.checkpoints.tidying import tidied
from fcn_deploy.spec import METADATA_KEY


@dataclass(frozen=True)
class StoredWeights:
    """What a checkpoint file holds."""

    path: Path
    state: dict[str, Tensor]
    """Tensors by name, floating-point ones as float32, without what training put before all names."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Of safetensors; a pickle has none."""
    assumptions: tuple[str, ...] = ()
    """What was taken and what was left out, where the file holds more than weights by their names."""
    container: str = "checkpoint"
    """``safetensors``, or ``checkpoint`` for what torch.save wrote."""
    prefix: str = ""
    """What was taken off all names (``module.``). A module whose own names begin so puts it back."""


def read(path: Path, key: str | None = None) -> StoredWeights:
    """The weights of a file, whatever its name.

    Args:
        key: which set of weights, where the file holds several: names with dots between, ``ema.shadow``.
            None takes the set under the usual names, and else the largest.

    Raises:
        ModelError: it is damaged or no checkpoint, holds no state_dict, or names classes that are not data.
        UsageError: a key for a safetensors file, which holds one set of weights.
    """
    kind = container_of(path)
    if kind == SAFETENSORS:
        if key is not None:
            raise UsageError(
                f"{path} is a safetensors file, which holds one set of weights; leave the key out"
            )
        found, metadata = _read_safetensors(path)
        clean = tidied(path, found, own=METADATA_KEY in metadata)
        return StoredWeights(path, clean.state, metadata, clean.assumptions, SAFETENSORS, clean.prefix)
    found, said = find(path, load_pickled(path, kind), key)
    clean = tidied(path, found)
    return StoredWeights(path, clean.state, {}, (*said, *clean.assumptions), prefix=clean.prefix)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as exc:
        raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
