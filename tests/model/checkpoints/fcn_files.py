"""Checkpoints under the layer names of other public implementations, from names written out here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from checkpoint_files import State
from torch import Tensor, nn

TRUNK = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
)
HEAD = ("fc6", "fc7", "score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8")

_SLICES = "{0}.0 {0}.2 {0}.5 {0}.7 {0}.10 {0}.12 {0}.14 {1}.0 {1}.2 {1}.4 {2}.0 {2}.2 {2}.4"
_BLOCKS = "{0}1.0 {0}1.2 {0}2.0 {0}2.2 {0}3.0 {0}3.2 {0}3.4 {0}4.0 {0}4.2 {0}4.4 {0}5.0 {0}5.2 {0}5.4"

NAMES = {
    "zijundeng": (
        _SLICES.format("features3", "features4", "features5"),
        "score_fr.0 score_fr.3 score_fr.6 score_pool4 score_pool3 upscore2 upscore_pool4 upscore8",
    ),
    "yassouali": (
        _SLICES.format("pool3", "pool4", "pool5"),
        "output.0 output.3 output.6 adj_pool4 adj_pool3 up_output up_pool4_out up_final",
    ),
    "meetshah1995": (
        _BLOCKS.format("conv_block"),
        "classifier.0 classifier.3 classifier.6 score_pool4 score_pool3 upscore2 upscore4 upscore8",
    ),
}
"""Names of the trunk's convolutions and of the head's layers, in the order of TRUNK and HEAD."""


def renamed(state: Mapping[str, Tensor], implementation: str) -> State:
    """A state_dict of the public keys under an implementation's names."""
    trunk, head = NAMES[implementation]
    theirs = dict(zip((*TRUNK, *HEAD), (*trunk.split(), *head.split()), strict=True))
    return {
        f"{theirs[layer]}.{kind}": value
        for layer, kind, value in ((*key.rsplit(".", 1), value) for key, value in state.items())
    }


class Lecture(nn.Module):
    """The lecture's network with fewer channels, written from its description: an original to compare with.

    Args:
        form: ``plain`` (fc6 and fc7 are bare convolutions), ``blocks`` (convolutions with their ReLU) or
            ``slices`` (of a VGG16 that stays inside).
        relu: whether ``plain`` applies ReLU after fc6 and fc7, as early copies do not.
    """

    def __init__(
        self, form: str, *, relu: bool = True, classes: int = 4, width: int = 2, fc: int = 6
    ) -> None:
        super().__init__()
        self.form, self.relu = form, relu
        widths = [width * factor for factor in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)]
        convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip([3, *widths], widths, strict=False)]
        if form == "slices":
            layers: list[nn.Module] = []
            for name, conv in zip(TRUNK, convs, strict=True):
                layers += [conv, nn.ReLU()]
                if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
                    layers.append(nn.MaxPool2d(2, 2))
            self.pretrained_model = nn.Module()
            self.pretrained_model.features = nn.Sequential(*layers)
            self.pretrained_model.classifier = nn.Sequential(nn.Linear(8 * width, 5))
            self.features_map1 = nn.Sequential(*layers[:17])
            self.features_map2 = nn.Sequential(*layers[17:24])
            self.features_map3 = nn.Sequential(*layers[24:])
            fc6, fc7 = nn.Conv2d(8 * width, fc, 1), nn.Conv2d(fc, fc, 1)
            self.conv = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout())
        else:
            for name, conv in zip(TRUNK, convs, strict=True):
                setattr(self, name, nn.Sequential(conv, nn.ReLU()))
            blocks = form == "blocks"
            for name, conv in (("fc6", nn.Conv2d(8 * width, fc, 1)), ("fc7", nn.Conv2d(fc, fc, 1))):
                setattr(self, name, nn.Sequential(conv, nn.ReLU()) if blocks else conv)
        self.score_fr = nn.Conv2d(fc, classes, 1)
        self.score_pool4_fr = nn.Conv2d(8 * width, classes, 1)
        self.score_pool3_fr = nn.Conv2d(4 * width, classes, 1)
        self.upscore2 = nn.ConvTranspose2d(classes, classes, 4, 2, 1)
        self.upscore2_pool4 = nn.ConvTranspose2d(classes, classes, 4, 2, 1)
        self.upscore8 = nn.ConvTranspose2d(classes, classes, 16, 8, 4)

    def forward(self, frames: Tensor) -> Tensor:
        pool3, pool4, pool5 = self._pools(frames)
        scores = self.upscore2(self.score_fr(self._fc(pool5))) + self.score_pool4_fr(pool4)
        return self.upscore8(self.upscore2_pool4(scores) + self.score_pool3_fr(pool3))

    def _pools(self, x: Tensor) -> list[Tensor]:
        if self.form == "slices":
            pool3 = self.features_map1(x)
            pool4 = self.features_map2(pool3)
            return [pool3, pool4, self.features_map3(pool4)]
        pools = []
        for name in TRUNK:
            x = getattr(self, name)(x)
            if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
                x = nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)
                pools.append(x)
        return pools[2:]

    def _fc(self, x: Tensor) -> Tensor:
        if self.form == "slices":
            return self.conv(x)
        x = self.fc6(x)
        x = self.fc7(x.relu() if self.relu else x)
        return x.relu() if self.relu else x


@torch.no_grad()
def lively(model: nn.Module, seed: int) -> nn.Module:
    """He-normal weights and biases that are not zero, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        scale = 0.3 if value.ndim == 1 else (2 / value[0].numel()) ** 0.5
        value.copy_(scale * torch.randn(value.shape, generator=generator))
        if "upscore" in name and value.ndim == 4:
            value.mul_(2)
    return model.eval()
