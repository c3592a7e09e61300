"""Do the keys and shapes of a file fit a network? Differences are listed in one message."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fcn_deploy.errors import ModelError


def refuse_keys(
    path: Path,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    name: str,
    *,
    sized: bool = True,
) -> None:
    """Raise one ModelError that lists the first few unknown and missing keys, and keys of the wrong shape.

    Args:
        path: the file that the weights come from.
        state: the weights.
        expected: the network's own, of which only the shapes are looked at, and whether they are floating
            point.
        name: of the network.
        sized: false where the keys that give the sizes are themselves missing or damaged: then only the
            number of dimensions can be compared.
    """
    wanted = {key: tuple(value.shape) for key, value in expected.items()}
    unknown = [key for key in state if key not in wanted]
    missing = [key for key in wanted if key not in state]
    wrong_shape = [
        f"{key} {list(state[key].shape)} instead of {list(wanted[key])}"
        for key in wanted
        if key in state
        and (tuple(state[key].shape) != wanted[key] if sized else state[key].ndim != len(wanted[key]))
    ]
    if problems := _listed(("unknown", unknown), ("missing", missing), ("of the wrong shape", wrong_shape)):
        raise ModelError(f"{path} does not fit {name}: {problems}")
    for key, value in state.items():
        if expected[key].is_floating_point() and not value.is_floating_point():
            raise ModelError(f"{path}: {key} holds {value.dtype}; weights must be floating point")
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: {key} holds NaN or infinite values; the training run diverged")


def refuse_names(path: Path, keys: Collection[str], expected: Collection[str], name: str) -> None:
    """Raise one ModelError that lists the first few unknown and missing keys; shapes are not looked at.

    Args:
        path: the file that the weights come from.
        keys: of the weights.
        expected: what they must be.
        name: of the network.
    """
    unknown = [key for key in keys if key not in expected]
    missing = [key for key in expected if key not in keys]
    if problems := _listed(("unknown", unknown), ("missing", missing)):
        raise ModelError(f"{path} does not fit {name}: {problems}")


def _listed(*lists: tuple[str, list[str]]) -> str:
    return "; ".join(f"{len(keys)} {what}: {first(keys)}" for what, keys in lists if keys)


def first(keys: list[str], count: int = 4) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
