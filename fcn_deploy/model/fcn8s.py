"""FCN-8s, the network and nothing else.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015), section 4, and the Caffe definitions that its authors published. Layer names are
the ones of the public PyTorch conversions of those Caffe weights, so a checkpoint's keys are
this module's keys.

Its variants share one forward pass:

========================  =======  =====  ====  ==================================================
variant                   padding  width  fc    upscores
========================  =======  =====  ====  ==================================================
``fcn8s``                 100      64     4096  transposed convolutions, crops 5, 9 and 31
``fcn8s-atonce``          100      64     4096  the same; pool4 scaled by 0.01, pool3 by 0.0001
``fcn8s-same``            1        64     4096  cropped to the skip's and the frame's size
``fcn8s-lite``            1        16     512   the same
``fcn8s-lecture``         1        64     4096  learned, with a bias, exactly twice and 8 times
``fcn8s-lecture-norelu``  1        64     4096  the same
========================  =======  =====  ====  ==================================================

The paper pads the frame by 100 so that every frame is large enough for fc6. The ``same`` family
pads fc6 instead, which makes any frame from 1x1 up work and computes nothing outside the frame.
The ``lecture`` family is what a widely copied lecture makes of the paper: fc6 is a 1x1 convolution, and
frames are multiples of 32, where nothing needs a crop. Early copies never apply their ReLU after fc6 and
fc7; the weights do not tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.network import Network, Rewrites
from fcn_deploy.spec import Architecture

_MARGIN = 4
"""The output of a stride-8 transposed convolution without padding is the resize by 8, shifted by 4 pixels."""


_KERNELS = (
    "upscores are transposed convolutions with bilinear kernels, which differ at the border only, where "
    "the model itself repeats its edge"
)


@dataclass(frozen=True)
class Variant:
    """What distinguishes one FCN-8s from another; see the table above."""

    name: str
    frame_padding: int
    fc6_padding: int
    crops: tuple[int, int, int]
    """Offsets at which score_pool4, score_pool3 and the final scores are cropped."""
    pool4_scale: float = 1.0
    pool3_scale: float = 1.0
    resize: bool = False
    """Fixed upscores are half-pixel bilinear with replicated edges, not transposed convolutions."""
    biased: bool = False
    """Upscores are always learned, and have a bias."""
    fc6_size: int = 7
    fc_relu: bool = True
    """ReLU after fc6 and fc7."""
    size_multiple: int = 1
    """Height and width must be multiples of it. Multiples of 32 need no crops."""
    width: int = 64
    fc_channels: int = 4096


_LECTURE = Variant("fcn8s-lecture", 1, 0, (0, 0, 0), biased=True, fc6_size=1, size_multiple=32)

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("fcn8s", 100, 0, (5, 9, 31)),
        Variant("fcn8s-atonce", 100, 0, (5, 9, 31), pool4_scale=0.01, pool3_scale=0.0001),
        Variant("fcn8s-same", 1, 3, (0, 0, 0), resize=True),
        Variant("fcn8s-lite", 1, 3, (0, 0, 0), resize=True, width=16, fc_channels=512),
        _LECTURE,
        replace(_LECTURE, name="fcn8s-lecture-norelu", fc_relu=False),
    )
}


def find_variant(name: str) -> Variant:
    """The variant of this name.

    Raises:
        ModelError: no variant has this name; the message lists those that exist.
    """
    if name not in VARIANTS:
        raise ModelError(f"unknown variant {name!r}; choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def bilinear_kernel(channels: int, size: int) -> Tensor:
    """Weights that make a ConvTranspose2d of stride ``size // 2`` interpolate bilinearly.

    Args:
        channels: classes; each is interpolated on its own.
        size: kernel size, 4 for stride 2 and 16 for stride 8.

    Returns:
        float32 ``[channels, channels, size, size]``, zero off the channel diagonal
        (section 4.2 of the paper; the filler of the authors' Caffe layers).
    """
    centre = (size - 1) / 2
    line = 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / (size // 2)
    kernel = torch.zeros(channels, channels, size, size)
    kernel[range(channels), range(channels)] = torch.outer(line, line)
    return kernel


class Upscore(nn.Module):
    """Bilinear or learned upsampling of score maps by ``stride`` (2 or 8).

    The weight always exists, so that checkpoints keep the paper's keys. Where ``resize`` is true
    an interpolation runs instead, and the weight only holds the kernel that is equal to it.

    The output of a transposed convolution without padding is ``stride * n + stride`` long; with
    a padding of ``stride / 2`` (the ``same`` and ``lecture`` families) it is ``stride * n``, like a resize.
    """

    def __init__(
        self, num_classes: int, stride: int, *, padded: bool, resize: bool, biased: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = stride // 2 if padded else 0
        self.resize = resize
        self.weight = nn.Parameter(bilinear_kernel(num_classes, 2 * stride))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if biased else None

    def forward(self, scores: Tensor) -> Tensor:
        if self.resize:
            return F.interpolate(
                scores, scale_factor=float(self.stride), mode="bilinear", align_corners=False
            )
        return F.conv_transpose2d(scores, self.weight, self.bias, stride=self.stride, padding=self.padding)


def crop_like(scores: Tensor, like: Tensor, offset: int) -> Tensor:
    """``scores`` from ``offset`` on, at the height and width of ``like`` (both NCHW)."""
    height, width = like.shape[-2:]
    return scores[..., offset : offset + height, offset : offset + width]


class FCN8s(Network):
    """FCN-8s over normalised frames.

    Args:
        num_classes: 2 to 255; label 255 is reserved for 'ignored'.
        variant: one of :data:`VARIANTS`.
        width: channels of conv1; conv2 to conv5 have 2, 4, 8 and 8 times as many.
            None uses the variant's own.
        fc_channels: channels of fc6 and fc7. None uses the variant's own.
        learned_upscore: upscores are free transposed convolutions instead of fixed bilinear ones; those of
            the ``lecture`` family always are.

    Raises:
        ModelError: a number is out of range or the variant is unknown.
    """

    stride = 32
    """The product of the strides of its five poolings."""

    def __init__(
        self,
        num_classes: int = 21,
        variant: str = "fcn8s",
        *,
        width: int | None = None,
        fc_channels: int | None = None,
        learned_upscore: bool = False,
    ) -> None:
        super().__init__()
        chosen = find_variant(variant)
        w = chosen.width if width is None else width
        fc = chosen.fc_channels if fc_channels is None else fc_channels
        if not 2 <= num_classes <= 255:
            raise ModelError(
                f"num_classes must be from 2 to 255 (255 labels ignored pixels), not {num_classes}"
            )
        if w < 1 or fc < 1:
            raise ModelError(f"width and fc_channels must be at least 1, not {w} and {fc}")
        self.num_classes = num_classes
        self.variant = chosen
        self.width = w
        self.fc_channels = fc
        self.learned_upscore = learned_upscore or chosen.biased
        self.size_multiple = chosen.size_multiple

        self.conv1_1 = nn.Conv2d(3, w, 3, padding=chosen.frame_padding)
        self.conv1_2 = nn.Conv2d(w, w, 3, padding=1)
        self.conv2_1 = nn.Conv2d(w, 2 * w, 3, padding=1)
        self.conv2_2 = nn.Conv2d(2 * w, 2 * w, 3, padding=1)
        self.conv3_1 = nn.Conv2d(2 * w, 4 * w, 3, padding=1)
        self.conv3_2 = nn.Conv2d(4 * w, 4 * w, 3, padding=1)
        self.conv3_3 = nn.Conv2d(4 * w, 4 * w, 3, padding=1)
        self.conv4_1 = nn.Conv2d(4 * w, 8 * w, 3, padding=1)
        self.conv4_2 = nn.Conv2d(8 * w, 8 * w, 3, padding=1)
        self.conv4_3 = nn.Conv2d(8 * w, 8 * w, 3, padding=1)
        self.conv5_1 = nn.Conv2d(8 * w, 8 * w, 3, padding=1)
        self.conv5_2 = nn.Conv2d(8 * w, 8 * w, 3, padding=1)
        self.conv5_3 = nn.Conv2d(8 * w, 8 * w, 3, padding=1)
        self.fc6 = nn.Conv2d(8 * w, fc, chosen.fc6_size, padding=chosen.fc6_padding)
        self.fc7 = nn.Conv2d(fc, fc, 1)
        self.score_fr = nn.Conv2d(fc, num_classes, 1)
        self.score_pool4 = nn.Conv2d(8 * w, num_classes, 1)
        self.score_pool3 = nn.Conv2d(4 * w, num_classes, 1)

        # Ceil mode changes no output shape (the crops hide it), only the numbers at odd sizes. Multiples of
        # 32 have none, and the exporter reads their halves as whole numbers.
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=chosen.size_multiple == 1)
        self.dropout = nn.Dropout2d(0.5)

        self.upscore2 = self._new_upscore(2)
        self.upscore_pool4 = self._new_upscore(2)
        self.upscore8 = self._new_upscore(8)

    def _new_upscore(self, stride: int) -> Upscore:
        upscore = Upscore(
            self.num_classes,
            stride,
            padded=self.variant.resize or self.variant.biased,
            resize=self.variant.resize and not self.learned_upscore,
            biased=self.variant.biased,
        )
        upscore.weight.requires_grad_(self.learned_upscore)
        return upscore

    @property
    def architecture(self) -> Architecture:
        """Which network it is, for a :class:`~fcn_deploy.spec.ModelSpec`."""
        options = {
            "width": self.width,
            "fc_channels": self.fc_channels,
            "learned_upscore": self.learned_upscore,
        }
        return Architecture(self.variant.name, options)

    def forward(self, frames: Tensor) -> Tensor:
        """Class scores of normalised frames.

        Args:
            frames: float ``[N, 3, H, W]``, channels B, G, R, mean subtracted and scaled.

        Returns:
            float ``[N, classes, H, W]`` logits.
        """
        return self.upscore_frame(frames, self.fuse(*self.trunk(frames)))

    def trunk(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The VGG16 layers: pool3 ``[N, 4w, ~H/8, ~W/8]``, pool4 (1/16) and fc7 (1/32)."""
        x = F.relu(self.conv1_1(frames))
        x = F.relu(self.conv1_2(x))
        x = self.pool(x)

        x = F.relu(self.conv2_1(x))
        x = F.relu(self.conv2_2(x))
        x = self.pool(x)

        x = F.relu(self.conv3_1(x))
        x = F.relu(self.conv3_2(x))
        x = F.relu(self.conv3_3(x))
        pool3 = self.pool(x)

        x = F.relu(self.conv4_1(pool3))
        x = F.relu(self.conv4_2(x))
        x = F.relu(self.conv4_3(x))
        pool4 = self.pool(x)

        x = F.relu(self.conv5_1(pool4))
        x = F.relu(self.conv5_2(x))
        x = F.relu(self.conv5_3(x))
        x = self.pool(x)

        x = self.dropout(self._activated(self.fc6(x)))
        fc7 = self.dropout(self._activated(self.fc7(x)))
        return pool3, pool4, fc7

    def _activated(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.variant.fc_relu else x

    def fuse(self, pool3: Tensor, pool4: Tensor, fc7: Tensor) -> Tensor:
        """Scores at an eighth of the frame: fc7's, with the skips from pool4 and pool3 added."""
        crop4, crop3, _ = self.variant.crops
        scores = self.upscore2(self.score_fr(fc7))
        skip4 = self.score_pool4(_scaled(pool4, self.variant.pool4_scale))
        scores = self._add_skip(scores, skip4, crop4)

        scores = self.upscore_pool4(scores)
        skip3 = self.score_pool3(_scaled(pool3, self.variant.pool3_scale))
        return self._add_skip(scores, skip3, crop3)

    def _add_skip(self, scores: Tensor, skip: Tensor, offset: int) -> Tensor:
        """Add a skip's scores to upsampled ones.

        The paper's skip is the larger of the two (it includes the padding of 100) and is cropped at
        ``offset``. In the ``same`` family the upsampled scores are the larger (ceil-mode pooling
        rounds up) and are cropped to the skip. In the ``lecture`` family the two are of one size.
        """
        if self.variant.resize:
            scores = crop_like(scores, skip, offset)
        elif not self.variant.biased:
            skip = crop_like(skip, scores, offset)
        return scores + skip

    def as_usual(self) -> tuple[Network, str]:
        """With transposed convolutions, as the paper and its conversions have it."""
        options = {**self.architecture.options, "learned_upscore": True}
        plain = FCN8s(self.num_classes, self.variant.name, **options)
        plain.load_state_dict(self.state_dict())
        return plain.eval(), _KERNELS if self.variant.resize and not self.learned_upscore else ""

    @torch.no_grad()
    def absorb_preparation(self, std: Tensor, swap: bool) -> bool:
        """The mean is not folded: the padding is zero after it is subtracted, not before."""
        weight = self.conv1_1.weight
        weight.div_(std.reshape(1, 3, 1, 1))
        if swap:
            weight.copy_(weight.flip(1))
        return True

    def logits_to_crop(self, frames: Tensor, rewrites: Rewrites) -> tuple[Tensor, int]:
        """Fixed bilinear transposed convolutions as a resize of the cells that the frame needs."""
        scores = self.fuse(*self.trunk(frames))
        offset = self.variant.crops[2]
        if not rewrites.resize_upscore8 or self.variant.resize or self.learned_upscore:
            return self.upscore8(scores), offset
        first = (offset - _MARGIN) // 8 - 1
        offset -= _MARGIN + 8 * first
        # Interpolating the last pixel reads one more cell, so round up and add one.
        height, width = frames.shape[-2:]
        rows = (height + offset + 7) // 8 + 1
        columns = (width + offset + 7) // 8 + 1
        cells = scores[..., first : first + rows, first : first + columns]
        return F.interpolate(cells, scale_factor=8.0, mode="bilinear", align_corners=False), offset

    def upscore_frame(self, frames: Tensor, scores: Tensor) -> Tensor:
        """Scores at an eighth of the frame -> logits at the frame's height and width."""
        return crop_like(self.upscore8(scores), frames, self.variant.crops[2])


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1.0 else x * scale
