"""Tensors by FCN-8s' own keys -> an FCN8s of the sizes that they have."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.keys import refuse_keys
from fcn_deploy.model.fcn8s import FCN8s, bilinear_kernel

_SIZING = ("conv1_1.weight", "fc6.weight", "score_fr.weight")

_UPSCORES = ("upscore2.weight", "upscore_pool4.weight", "upscore8.weight")


def build(
    path: Path,
    state: dict[str, Tensor],
    variant: str,
    num_classes: int | None,
    learned_upscore: bool | None,
    trained_on: str,
) -> FCN8s:
    """An FCN8s of the sizes that the weights have, filled with them."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if any(len(shapes.get(key, ())) != 4 for key in _SIZING):
        refuse_keys(path, state, sized(path, 21, variant, 1, 1).state_dict(), variant, sized=False)
    found = shapes["score_fr.weight"][0]
    if num_classes not in (None, found):
        raise ModelError(f"{path} has {found} classes, and --num-classes says {num_classes}")
    sized(path, min(found, 256), variant, 1, 1)  # refuse a wrong number before memory is allocated for it
    kernels = {key: bilinear_kernel(found, 16 if "8" in key else 4) for key in _UPSCORES}
    fixed = all(_equal(state.get(key, kernel), kernel) for key, kernel in kernels.items())
    if learned_upscore is False and not fixed:
        raise ModelError(f"{path}: its upscore weights are learned, not bilinear; they cannot be fixed")
    model = sized(
        path,
        found,
        variant,
        shapes["conv1_1.weight"][0],
        shapes["fc6.weight"][0],
        learned_upscore=(not fixed) if learned_upscore is None else learned_upscore,
    )
    state = {**kernels, **state}
    if fixed and not model.learned_upscore:
        state |= kernels  # kernels that were rounded in the file are exact again, as in the deploy graph
    refuse_keys(path, state, model.state_dict(), variant)
    if trained_on == "rgb":
        state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    model.load_state_dict(state)
    return model.eval()


def sized(
    path: Path, classes: int, variant: str, width: int, fc: int, *, learned_upscore: bool = False
) -> FCN8s:
    """An FCN8s of these sizes; errors name the file that they come from."""
    try:
        return FCN8s(classes, variant, width=width, fc_channels=fc, learned_upscore=learned_upscore)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-4)
