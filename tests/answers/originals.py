"""An original network as somebody else may have written it: plain PyTorch, without a line of fcn_deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)
"""B, G, R."""


def prepared(
    frame: np.ndarray,
    *,
    rgb: bool = False,
    mean: Sequence[float] = CAFFE_MEAN,
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """uint8 B, G, R ``[H, W, 3]`` -> float32 ``[3, H, W]``; mean and std are B, G, R of 0..255."""
    x = (frame.astype(np.float64) - np.array(mean)) / np.array(std)
    planes = (x[..., ::-1] if rgb else x).transpose(2, 0, 1).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(planes))


class Original(nn.Module):
    """FCN-8s over VGG16 with the settings in which implementations differ.

    ``align_corners`` and ``to_size`` are about the three resizes, ``padding`` 100 is the paper's (with its
    transposed convolutions and crops), ``classes`` the order in which its classes stand.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        classes: Sequence[int] | None = None,
        skip_scales: tuple[float, float] = (1.0, 1.0),
        ceil_mode: bool = True,
        align_corners: bool = False,
        to_size: bool = False,
        padding: int = 1,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in weights}
        for name, value in weights.items():
            self.register_parameter(self.names[name], nn.Parameter(value.float(), requires_grad=False))
        self.classes, self.skip_scales = classes, skip_scales
        self.ceil_mode, self.align_corners, self.to_size = ceil_mode, align_corners, to_size
        self.padding, self.transposed = padding, transposed

    def weight(self, name: str) -> Tensor:
        return getattr(self, self.names[name])

    def conv(self, x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), padding=padding)

    def forward(self, frames: Tensor) -> Tensor:
        x, pools = frames, []
        for block, layers in enumerate((2, 2, 3, 3, 3), start=1):
            for layer in range(1, layers + 1):
                first = (block, layer) == (1, 1)
                x = F.relu(self.conv(x, f"conv{block}_{layer}", self.padding if first else 1))
            x = F.max_pool2d(x, 2, 2, ceil_mode=self.ceil_mode)
            pools.append(x)
        x = F.relu(self.conv(x, "fc6", 0 if self.padding == 100 else 3))
        x = self.conv(F.relu(self.conv(x, "fc7", 0)), "score_fr", 0)
        scale3, scale4 = self.skip_scales
        skip4 = self.conv(pools[3] * scale4, "score_pool4", 0)
        skip3 = self.conv(pools[2] * scale3, "score_pool3", 0)
        if self.padding == 100:
            logits = self.paper(x, skip4, skip3, frames)
        else:
            x = self.enlarged(x, 2, skip4) + skip4
            x = self.enlarged(x, 2, skip3) + skip3
            logits = self.enlarged(x, 8, frames)
        return logits if self.classes is None else logits[:, list(self.classes)]

    def enlarged(self, x: Tensor, factor: int, like: Tensor) -> Tensor:
        height, width = like.shape[-2:]
        if self.transposed:
            line = 1 - (torch.arange(2 * factor) - factor + 0.5).abs() / factor
            kernel = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
            x = F.conv_transpose2d(x, kernel, stride=factor, padding=factor // 2, groups=x.shape[1])
            return x[..., :height, :width]
        if self.to_size:
            return F.interpolate(x, (height, width), mode="bilinear", align_corners=self.align_corners)
        x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=self.align_corners)
        return x[..., :height, :width]

    def paper(self, x: Tensor, skip4: Tensor, skip3: Tensor, frames: Tensor) -> Tensor:
        def cropped(x: Tensor, offset: int, like: Tensor) -> Tensor:
            return x[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]

        x = F.conv_transpose2d(x, self.weight("upscore2.weight"), stride=2)
        x = F.conv_transpose2d(x + cropped(skip4, 5, x), self.weight("upscore_pool4.weight"), stride=2)
        x = F.conv_transpose2d(x + cropped(skip3, 9, x), self.weight("upscore8.weight"), stride=8)
        return cropped(x, 31, frames)
