"""Batch normalisation for training, folded into the convolutions afterwards."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fcn_deploy.model.fcn8s import FCN8s

NORMALISED = [
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3", "fc6", "fc7"),
]

READERS = {"conv3_3": "score_pool3", "conv4_3": "score_pool4", "fc7": "score_fr"}
"""The score layer that reads a layer's output, beside the next layer of the trunk."""


class NormalisedConv(nn.Module):
    """A convolution followed by batch normalisation."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """The one convolution that equals both in evaluation mode."""
        gain = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        folded = copy.deepcopy(self.conv)
        folded.weight.mul_(gain[:, None, None, None])
        folded.bias.copy_((self.conv.bias - self.norm.running_mean) * gain + self.norm.bias)
        return folded


@torch.no_grad()
def attach_batchnorm(model: FCN8s, frames: list[Tensor]) -> None:
    """Put a batch normalisation behind every convolution but the score layers, in place.

    The network's results on ``frames`` stay the same: each normalisation starts with the statistics
    of these frames, and its gain and bias undo it. Because ReLU and max pooling commute with a
    positive factor, each layer is also scaled to a standard deviation of one, which the layers that
    read it compensate; all weights then have the same order of magnitude for the optimiser.
    """
    mean, spread = _statistics(model, frames)
    before = 1.0
    for name in NORMALISED:
        conv: nn.Conv2d = getattr(model, name)
        level = float(spread[name].mean())
        layer = NormalisedConv(conv)
        conv.weight.mul_(before / spread[name][:, None, None, None])
        conv.bias.copy_((conv.bias - mean[name]) / spread[name])
        layer.norm.weight.copy_(spread[name] / level)
        layer.norm.bias.copy_(mean[name] / level)
        layer.norm.running_mean.zero_()
        layer.norm.running_var.fill_(1 - layer.norm.eps)
        setattr(model, name, layer)
        if name in READERS:
            getattr(model, READERS[name]).weight.mul_(level)
        before = level


def _statistics(model: FCN8s, frames: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and spread of each channel of each convolution's output, over ``frames``."""
    sums = {name: torch.zeros(3, getattr(model, name).out_channels) for name in NORMALISED}

    def note(name: str):  # noqa: ANN202
        def hook(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
            flat = out.double().flatten(2).permute(1, 0, 2).flatten(1)
            sums[name] += torch.stack(
                [torch.full((len(flat),), flat.shape[1]), flat.sum(1), (flat**2).sum(1)]
            )

        return hook

    hooks = [getattr(model, name).register_forward_hook(note(name)) for name in NORMALISED]
    model.eval()
    for frame in frames:
        model(frame)
    for hook in hooks:
        hook.remove()
    mean = {name: s[1] / s[0] for name, s in sums.items()}
    spread = {n: (s[2] / s[0] - mean[n] ** 2).clamp_min(1e-6).sqrt() for n, s in sums.items()}
    return mean, spread


def fold_batchnorm(model: FCN8s) -> FCN8s:
    """A copy that is a plain FCN-8s again, with the same results in evaluation mode."""
    plain = copy.deepcopy(model)
    for name in NORMALISED:
        setattr(plain, name, getattr(plain, name).fold())
    return plain
