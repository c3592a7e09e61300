"""Seeded random weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from fcn_deploy.model.checkpoints.describe import CheckpointInfo
from fcn_deploy.model.fcn8s import FCN8s, Upscore


def random_model(
    num_classes: int = 21,
    variant: str = "fcn8s",
    *,
    width: int | None = None,
    fc_channels: int | None = None,
    learned_upscore: bool = False,
    seed: int = 0,
) -> tuple[FCN8s, CheckpointInfo]:
    """Seeded He-normal weights, score layers included, to try an export; the labels mean nothing.

    Raises:
        ModelError: a number is out of range or the variant is unknown.
    """
    model = FCN8s(num_classes, variant, width=width, fc_channels=fc_channels, learned_upscore=learned_upscore)
    he_normal(model, seed)
    name = f"random (seed {seed})"
    return model.eval(), CheckpointInfo(
        "random", name, None, "random", note="random weights: labels mean nothing"
    )


@torch.no_grad()
def he_normal(model: FCN8s, seed: int, only: tuple[str, ...] = ()) -> None:
    """Fill convolutions (He et al. 2015, section 2.2) and their biases; learned upscores get noise."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, Upscore)) or (only and name not in only):
            continue
        fan_in = math.prod(module.weight.shape[1:])
        noise = torch.randn(module.weight.shape, generator=generator)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.weight.copy_(noise * math.sqrt(2 / fan_in))
            module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
        elif model.learned_upscore:
            module.weight.add_(noise * 0.02)
            if module.bias is not None:
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
