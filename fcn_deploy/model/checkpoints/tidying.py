"""A state_dict as training left it -> float32 weights by the network's own names; what changed is said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fcn_deploy.errors import ModelError

_WRAPPERS = ("module.", "model.", "net.", "_orig_mod.", "network.")
"""What DataParallel, torch.compile, AveragedModel and training frameworks put before every name."""
_LEFT_OUT = re.compile(
    r"(?:^|\.)(?P<count>num_batches_tracked)$|^(?P<steps>n_averaged)$"
    r"|^(?:criterion|criteria|loss|losses|loss_fn|loss_func|loss_function)\."
)
"""Counters, which inference does not use, and weights of the loss. Anchored after the shared prefix."""
_LARGEST_GROWTH = 16
"""How many times the file's size its weights may take: a hostile file names one storage often."""


@dataclass(frozen=True)
class Tidied:
    """Weights, and what was done to them."""

    state: dict[str, Tensor]
    prefix: str
    """What was taken off all names: ``module.``, or empty."""
    assumptions: tuple[str, ...]


def tidied(path: Path, state: Mapping[str, Tensor], *, own: bool = False) -> Tidied:
    """Plain weights.

    Args:
        own: the file is one that fcn-deploy wrote: how it stores its weights is not worth a sentence.

    Returns:
        Floating-point tensors as contiguous float32, all others as they are.

    Raises:
        ModelError: a tensor is complex, quantised, sparse, or has no numbers; or nothing is left.
    """
    bare, prefix, left_out = _bare(state)
    if not bare:
        raise ModelError(f"{path} holds counters and weights of a loss, and no weights of a network")
    for name, tensor in bare.items():
        _require_plain(path, name, tensor)
    elements = sum(tensor.numel() for tensor in bare.values())
    if elements * 4 > path.stat().st_size * _LARGEST_GROWTH:
        raise ModelError(f"{path} holds more weights than its size allows; it is damaged or made to do harm")
    stored = Counter(str(v.dtype).removeprefix("torch.") for v in bare.values() if v.is_floating_point())
    stored.pop("float32", None)
    plain = {
        name: value.detach().float().contiguous() if value.is_floating_point() else value.detach()
        for name, value in bare.items()
    }
    said = [f"took {prefix!r} off the names of all weights"] if prefix else []
    if left_out:
        counts = Counter(_kind(name) for name in left_out)
        listed = " and ".join(f"{count} {kind}" for kind, count in counts.items())
        said.append(f"left out {listed}, which inference does not need")
    if stored:
        said.append(f"weights are stored as {' and '.join(stored)}; they are used as float32")
    return Tidied(plain, prefix, () if own else tuple(said))


def without_prefix(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """A state_dict without the wrappers' words that all its names share, and those words."""
    prefix = ""
    while word := next((w for w in _WRAPPERS if state and all(name.startswith(w) for name in state)), None):
        prefix += word
        state = {name.removeprefix(word): value for name, value in state.items()}
    return dict(state), prefix


def shared_prefix(state: Mapping[str, Tensor]) -> str:
    """What :func:`tidied` takes off all names of a module's own state_dict: ``model.``, or nothing."""
    return _bare(state)[1]


def is_left_out(name: str) -> bool:
    """Whether :func:`tidied` drops a tensor of this name."""
    return _LEFT_OUT.search(name) is not None


def _bare(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str, list[str]]:
    """Weights by their own names, the prefix that was taken off, and the names that were left out.

    ``n_averaged`` stands beside ``module.conv.weight`` and ``model.criterion.weight`` beside
    ``model.conv.weight``, so what is left out shows before the prefix is known, or after.
    """
    prefix, left_out = "", []
    while True:
        left_out += [name for name in state if _LEFT_OUT.search(name)]
        state, word = without_prefix({k: v for k, v in state.items() if not _LEFT_OUT.search(k)})
        if not word:
            return dict(state), prefix, left_out
        prefix += word


def _kind(name: str) -> str:
    found = _LEFT_OUT.search(name)
    return (found and (found["count"] or found["steps"])) or "of the loss"


def _require_plain(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        kind = "complex"
    elif tensor.is_quantized:
        kind = "quantised"
    elif tensor.layout != torch.strided or tensor.is_nested:
        kind = "sparse"
    elif tensor.device.type == "meta":
        kind = "without numbers (on the meta device)"
    else:
        return
    raise ModelError(f"{path}: {name} is {kind}; save its weights as plain float32 tensors")
