"""What a network must offer to be deployed: logits of prepared frames, and a few facts about itself.

Nothing outside a network's own module names one of its layers. A network that can give the same numbers in
less time says so by overriding :meth:`Network.absorb_preparation` or :meth:`Network.logits_to_crop`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fcn_deploy.spec import Architecture


@dataclass(frozen=True)
class Rewrites:
    """Which equal but faster forms the deploy graph uses."""

    fold_input: bool = True
    """Colour swap and scale go into the weights of the first convolution; only the mean stays an operator."""
    resize_upscore8: bool = True
    """A fixed bilinear transposed convolution becomes a resize of the cells that are kept.

    Replicated edges differ from the transposed convolution's zeros only within 4 pixels of the
    border, and the crop at 31 keeps at least 27 pixels away from it.
    """
    crop_labels: bool = True
    """The final crop cuts the labels, one byte a pixel, instead of the logits of every class."""


NO_REWRITES = Rewrites(fold_input=False, resize_upscore8=False, crop_labels=False)


class Network(nn.Module, ABC):
    """A semantic-segmentation network over prepared frames.

    ``forward`` takes float ``[N, 3, H, W]``, prepared (mean subtracted, scaled), channels in
    :attr:`channel_order`, H and W multiples of :attr:`size_multiple`; it gives float
    ``[N, classes, H, W]`` logits.
    """

    num_classes: int
    stride: int | None = None
    """As :attr:`fcn_deploy.spec.ModelSpec.stride`."""
    size_multiple: int = 1
    """Height and width must be multiples of it; the deploy graph pads frames."""
    channel_order: str = "bgr"
    """``bgr`` or ``rgb``: what ``forward`` reads."""
    threshold: float | None = None
    """As :attr:`fcn_deploy.spec.ModelSpec.threshold`."""

    @property
    @abstractmethod
    def architecture(self) -> Architecture:
        """Which network it is, and how it was built."""

    def absorb_preparation(self, std: Tensor, swap: bool) -> bool:
        """Take division by ``std`` and a reversal of the channels into the weights, in place.

        Args:
            std: ``[3]``, in :attr:`channel_order`.
            swap: whether frames come with their channels reversed.

        Returns:
            Whether it was done; a network that returns False is handed fully prepared frames.
        """
        return False

    def as_usual(self) -> tuple[Network, str]:
        """The network as programs without this package have it, and in which words that differs.

        It is what a benchmark calls typical user code.
        """
        return self, ""

    def logits_to_crop(self, frames: Tensor, rewrites: Rewrites) -> tuple[Tensor, int]:
        """Logits in the fastest form: they cover the frame from row and column ``offset`` on.

        Returns:
            float ``[N, classes, >= offset + H, >= offset + W]``, and ``offset``.
        """
        return self(frames), 0


def dtype_of(network: nn.Module) -> torch.dtype:
    """The type that a network computes in: that of its weights; float32 where it has none."""
    values = itertools.chain(network.parameters(), network.buffers())
    return next((value.dtype for value in values if value.is_floating_point()), torch.float32)
