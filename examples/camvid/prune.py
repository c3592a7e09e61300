"""Start a narrow FCN-8s from a wide, trained one: keep the most active channels, refit the weights.

After He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017):
layer by layer, choose the output channels to keep, then solve a least-squares problem so that the
narrow network's convolution reproduces the wide one's responses from the narrow one's inputs.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from batchnorm import NORMALISED
from safetensors.torch import load_file
from torch import Tensor, nn

from fcn_deploy.model.fcn8s import FCN8s

SAMPLES = 24_000
RIDGE = 1e-3


@torch.no_grad()
def prune_into(narrow: FCN8s, checkpoint: Path, frames: list[Tensor]) -> None:
    """Fill ``narrow`` from a wide checkpoint of the same family, using ``frames`` (normalised)."""
    wide = load_wide(checkpoint, narrow.num_classes)
    for model in (narrow, wide):
        model.eval().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)

    following = dict(zip(NORMALISED, [*NORMALISED[1:], "score_fr"], strict=True))
    teacher, student = list(frames), list(frames)
    skips: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for name in NORMALISED:
        layer: nn.Conv2d = getattr(wide, name)
        target: nn.Conv2d = getattr(narrow, name)
        teacher = [layer(x) for x in teacher]
        outgoing = getattr(wide, following[name]).weight.abs().sum((0, 2, 3))
        spread = torch.stack([F.relu(x).std((0, 2, 3)) for x in teacher]).mean(0)
        keep = (spread * outgoing).topk(target.out_channels).indices.sort().values
        refit(target, student, [x[:, keep] for x in teacher], generator)
        teacher = [F.relu(x) for x in teacher]
        student = [F.relu(target(x)) for x in student]
        if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
            teacher = [wide.pool(x) for x in teacher]
            student = [narrow.pool(x) for x in student]
        if name in ("conv3_3", "conv4_3"):
            skips[name] = (student, teacher)
    skips["fc7"] = (student, teacher)
    for source, name in (("conv3_3", "score_pool3"), ("conv4_3", "score_pool4"), ("fc7", "score_fr")):
        student, teacher = skips[source]
        refit(getattr(narrow, name), student, [getattr(wide, name)(x) for x in teacher], generator)


def load_wide(checkpoint: Path, classes: int) -> FCN8s:
    """A checkpoint of the same-padded family with as many channels as its tensors have."""
    state = {k: v.float() for k, v in load_file(checkpoint).items()}
    channels, fc_channels = state["conv1_1.weight"].shape[0], state["fc6.weight"].shape[0]
    wide = FCN8s(classes, "fcn8s-same", width=channels, fc_channels=fc_channels)
    wide.load_state_dict(state)
    return wide


def refit(conv: nn.Conv2d, inputs: list[Tensor], targets: list[Tensor], generator: torch.Generator) -> None:
    """Least squares: the weights of ``conv`` that turn ``inputs`` into ``targets`` (both NCHW)."""
    size = conv.kernel_size[0]
    pad = int(conv.padding[0])
    each = max(1, SAMPLES // len(inputs))
    columns = conv.in_channels * size * size + 1
    gram = torch.zeros(columns, columns)
    right = torch.zeros(columns, conv.out_channels)
    for x, y in zip(inputs, targets, strict=True):
        height, width = y.shape[-2:]
        places = torch.randperm(height * width, generator=generator)[: min(each, height * width)]
        patches = F.pad(x, (pad,) * 4)[0].unfold(1, size, 1).unfold(2, size, 1)
        rows = patches[:, places // width, places % width].permute(1, 0, 2, 3).flatten(1)
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        gram += rows.T @ rows
        right += rows.T @ y[0].flatten(1)[:, places].T
    gram += RIDGE * gram.diagonal().mean() * torch.eye(columns)
    solution = torch.linalg.solve(gram, right)
    conv.weight.copy_(solution[:-1].T.reshape(conv.weight.shape))
    conv.bias.copy_(solution[-1])
