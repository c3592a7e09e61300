"""Tiny checkpoints of known layouts, made without the code that loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fcn_deploy.model.fcn8s import FCN8s
from fcn_deploy.spec import ModelSpec

State = dict[str, Tensor]
MakeModel = Callable[..., FCN8s]

KEYS = tuple(FCN8s(2, width=1, fc_channels=1).state_dict())
UPSCORES = ("upscore2.weight", "upscore_pool4.weight", "upscore8.weight")


def tiny_state(seed: int = 0, classes: int = 3, channels: int = 1, fc: int = 2) -> State:
    """A state_dict with the public keys, made without the code that loads it."""
    generator = torch.Generator().manual_seed(seed)
    model = FCN8s(classes, width=channels, fc_channels=fc)
    return {
        key: value.clone() if key in UPSCORES else torch.randn(value.shape, generator=generator)
        for key, value in model.state_dict().items()
    }


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def assert_holds(model: FCN8s, state: State) -> None:
    found = model.state_dict()
    assert set(found) == set(state)
    for key, value in state.items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value.float()), key


def spec_for(model: FCN8s, **changes: Any) -> ModelSpec:
    fields = {
        "classes": tuple(f"class {i}" for i in range(model.num_classes)),
        "architecture": model.architecture,
    }
    return ModelSpec(**{**fields, **changes})


def vgg16(width: int = 2, fc: int = 6, classes: int = 10) -> tuple[nn.Sequential, nn.Sequential]:
    """torchvision's VGG16 with fewer channels: its features and its classifier."""
    layers: list[nn.Module] = []
    channels = 3
    for multiple, count in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, multiple * width, 3, padding=1), nn.ReLU()]
            channels = multiple * width
        layers.append(nn.MaxPool2d(2, 2))
    classifier = [
        *(nn.Linear(channels * 49, fc), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(fc, fc), nn.ReLU(), nn.Dropout(), nn.Linear(fc, classes)),
    ]
    return nn.Sequential(*layers).eval(), nn.Sequential(*classifier).eval()


def vgg16_state(features: nn.Sequential, classifier: nn.Sequential) -> State:
    parts = (("features", features), ("classifier", classifier))
    return {f"{name}.{key}": value for name, part in parts for key, value in part.state_dict().items()}
