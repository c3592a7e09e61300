"""What every network offers, and what one that overrides nothing does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fcn_deploy.model.network import NO_REWRITES, Network, Rewrites, dtype_of
from fcn_deploy.spec import Architecture


class Threefold(Network):
    """The least that a network must have."""

    num_classes = 3

    @property
    def architecture(self) -> Architecture:
        return Architecture("threefold")

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return 3 * frames


class WithoutName(Network):
    num_classes = 3


def test_a_network_must_say_what_it_is() -> None:
    with pytest.raises(TypeError, match="architecture"):
        WithoutName()


def test_one_that_overrides_nothing_is_fed_and_cropped_as_it_is() -> None:
    network = Threefold()
    frames = torch.rand(2, 3, 5, 7)
    logits, offset = network.logits_to_crop(frames, Rewrites())
    assert torch.equal(logits, 3 * frames) and offset == 0
    assert network.absorb_preparation(torch.ones(3), swap=True) is False
    assert network.as_usual() == (network, "")
    assert (network.stride, network.size_multiple, network.channel_order, network.threshold) == (
        *(None, 1, "bgr"),
        None,
    )


def test_no_rewrite_is_none_of_them() -> None:
    assert Rewrites(fold_input=False, resize_upscore8=False, crop_labels=False) == NO_REWRITES
    assert all(vars(Rewrites()).values())


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


@pytest.mark.parametrize(
    ("module", "dtype"),
    [
        (nn.Conv2d(3, 2, 1), torch.float32),
        (nn.Conv2d(3, 2, 1).double(), torch.float64),
        (nn.BatchNorm2d(2, affine=False).half(), torch.float16),
        (Counted(), torch.float32),
        (nn.ReLU(), torch.float32),
    ],
    ids=["weights", "double", "buffers only", "whole numbers only", "nothing"],
)
def test_the_type_that_it_computes_in(module: nn.Module, dtype: torch.dtype) -> None:
    assert dtype_of(module) is dtype
