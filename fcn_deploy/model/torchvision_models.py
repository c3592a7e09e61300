"""torchvision's semantic-segmentation models, known by the keys of their weights.

Source: ``torchvision.models.segmentation``; its reference scripts save what these modules' state_dict gives.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, final

import torch
from torch import Tensor

from fcn_deploy.lazy import require
from fcn_deploy.model.network import Network
from fcn_deploy.spec import Architecture

MODELS = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)

AUXILIARY = "aux_classifier."
"""Beginning of the keys of a second head, which is used in training only."""


@final
class TorchvisionNetwork(Network):
    """One of :data:`MODELS`, without its auxiliary head.

    Args:
        name: one of :data:`MODELS`.
        num_classes: channels of its logits.
    """

    channel_order = "rgb"

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.name = name
        self.module = _new(name, num_classes)

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.name, {"channel_order": self.channel_order})

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.module(frames)["out"]
        return logits


def score_key(name: str) -> str:
    """The key of a tensor with one number a class."""
    return "classifier.low_classifier.bias" if name.startswith("lraspp") else "classifier.4.bias"


def counts(key: str) -> bool:
    """Whether a key belongs to what is deployed."""
    return not key.startswith(AUXILIARY) and not key.endswith("num_batches_tracked")


def name_of(keys: Collection[str]) -> str | None:
    """The model that has these keys; None where no model has them."""
    if not any(key.startswith("backbone.") for key in keys):
        return None
    wanted = {key for key in keys if counts(key)}
    return next((name for name in MODELS if keys_of(name) == wanted), None)


@functools.cache
def keys_of(name: str) -> frozenset[str]:
    """The keys of a model without its auxiliary head."""
    with torch.device("meta"):
        return frozenset(key for key in _new(name, 2).state_dict() if counts(key))


def _new(name: str, num_classes: int) -> Any:
    models = require("torchvision", extra="export").models.segmentation
    return getattr(models, name)(weights=None, weights_backbone=None, num_classes=num_classes)
