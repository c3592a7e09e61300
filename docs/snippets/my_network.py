import torch
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class SmallUNet(nn.Module):
    """Two poolings, two skips: height and width must be multiples of 4."""

    def __init__(self, classes):
        super().__init__()
        self.top, self.middle, self.bottom = block(3, 16), block(16, 32), block(32, 32)
        self.up_middle, self.up_top = block(64, 16), block(32, 16)
        self.score = nn.Conv2d(16, classes, 1)
        self.shrink, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, frames):
        top = self.top(frames)
        middle = self.middle(self.shrink(top))
        bottom = self.bottom(self.shrink(middle))
        middle = self.up_middle(torch.cat([self.grow(bottom), middle], 1))
        return self.score(self.up_top(torch.cat([self.grow(middle), top], 1)))


class CoarseNet(nn.Sequential):
    """Its logits have a quarter of the frame's rows and columns."""

    def __init__(self, classes):
        pool = nn.MaxPool2d(2, ceil_mode=True)
        super().__init__(block(3, 16), pool, block(16, 32), pool, nn.Conv2d(32, classes, 1))


def street():
    return SmallUNet(classes=11)


def road():
    """One channel: road or not."""
    return SmallUNet(classes=1)


def coarse():
    return CoarseNet(classes=11)
