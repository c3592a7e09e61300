"""Tiny models with nothing zero in them, and the numpy implementation they are held against."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from fcn_deploy.model.fcn8s import FCN8s, Upscore

MakeModel = Callable[..., FCN8s]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers of three channels are too small to share: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/model/reference_fcn8s.py; the tests are no package, so it is opened by its path."""
    path = Path(__file__).with_name("reference_fcn8s.py")
    spec = importlib.util.spec_from_file_location("reference_fcn8s", path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A narrow FCN8s in evaluation mode: He-normal weights, and biases that are not zero."""

    def make(
        variant: str = "fcn8s",
        *,
        num_classes: int = 5,
        width: int = 3,
        fc_channels: int = 8,
        learned_upscore: bool = False,
        seed: int = 0,
    ) -> FCN8s:
        model = FCN8s(
            num_classes, variant, width=width, fc_channels=fc_channels, learned_upscore=learned_upscore
        )
        rng = np.random.default_rng(seed)

        def noise(parameter: nn.Parameter, scale: float) -> torch.Tensor:
            return torch.from_numpy(rng.normal(scale=scale, size=parameter.shape).astype(np.float32))

        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.copy_(noise(module.weight, math.sqrt(2 / module.weight[0].numel())))
                    module.bias.copy_(noise(module.bias, 0.3))
                elif isinstance(module, Upscore) and model.learned_upscore:
                    module.weight.add_(noise(module.weight, 0.1))
                    if module.bias is not None:
                        module.bias.copy_(noise(module.bias, 0.3))
        return model.eval()

    return make
