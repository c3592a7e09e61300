"""The network of an export: the user's module as it was stated, filled where a file is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.export.opening import open_network
from fcn_deploy.export.request import FACTORY_WEIGHTS, Request
from fcn_deploy.files import sha256_of
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.spec import Architecture, ModelSpec


def request(checkpoint: Any, module: dict[str, Any] | None = None, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        **dict.fromkeys(("model", "key", "trained_on", "num_classes", "classes", "spec")),
        "fcn8s": {"variant": None, "learned_upscore": None},
        "random": {"width": None, "fc_channels": None, "seed": None},
    }
    return Request(checkpoint=checkpoint, module=module or {}, **{**fields, **changes})


@pytest.fixture
def weights(nets, tmp_path: Path) -> Path:
    """A training checkpoint of another seed, with averaged weights beside the last ones."""
    last, average = nets.Plain(seed=5), nets.Plain(seed=6)
    path = tmp_path / "last.ckpt"
    torch.save({"model": nn.DataParallel(last).state_dict(), "ema": average.state_dict(), "epoch": 9}, path)
    return path


def stem(network: Any) -> torch.Tensor:
    return network.module.stem.weight


def test_a_module_in_memory(nets) -> None:
    module = nets.Plain()
    network, info = open_network(request(module))
    assert torch.equal(stem(network), module.stem.weight)
    assert (info.kind, info.name, info.sha256) == ("module", "Plain in memory", None)
    assert (info.known_by, info.trained_on, info.min_side) == ("module", "rgb", 1)
    assert info.assumptions == ("trained on R, G, B (--trained-on)",)
    assert info.mean == pytest.approx((103.53, 116.28, 123.675)), "ImageNet's, in B, G, R"


def test_a_factory_with_its_own_weights(nets) -> None:
    factory = f"{nets.__file__}:plain"
    network, info = open_network(request(FACTORY_WEIGHTS, model=factory, trained_on="bgr"))
    assert torch.equal(stem(network), nets.Plain().stem.weight)
    assert (info.name, info.trained_on, info.assumptions) == ("user_modules.py:plain", "bgr", ())
    options = {"channel_order": "bgr", "factory": "user_modules.py:plain"}
    assert network.architecture == Architecture("Plain", options)


@pytest.mark.parametrize(("key", "seed"), [(None, 5), ("ema", 6)])
def test_weights_of_a_file(nets, weights: Path, key: str | None, seed: int) -> None:
    network, info = open_network(request(weights, model=f"{nets.__file__}:plain", key=key))
    assert torch.equal(stem(network), nets.Plain(seed=seed).stem.weight)
    assert (info.name, info.sha256) == ("last.ckpt in user_modules.py:plain", sha256_of(weights))
    assert any("'ema'" in sentence for sentence in info.assumptions)


def test_the_callers_module_is_not_filled(nets, weights: Path) -> None:
    module = nets.Plain(seed=1).train()
    before = module.stem.weight.clone()
    network, info = open_network(request(weights, model=module))
    assert torch.equal(stem(network), nets.Plain(seed=5).stem.weight)
    assert torch.equal(module.stem.weight, before) and module.training
    assert info.name == "last.ckpt in Plain in memory"


def test_weights_of_another_network(nets, tmp_path: Path) -> None:
    torch.save(nets.UNet().state_dict(), tmp_path / "unet.pth")
    with pytest.raises(
        ModelError, match=r"unet\.pth does not fit Plain: .*unknown: stem|unknown: down.*missing"
    ):
        open_network(request(tmp_path / "unet.pth", model=nets.Plain()))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": 7}, "model is a module, package.module:function or file.py:function, not 7"),
        ({"model": Path("nets.py:f")}, "model is a module, package.module:function"),
        ({"model": "nothing"}, "expected package.module:function or file.py:function"),
    ],
)
def test_a_model_that_is_none(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        open_network(request(FACTORY_WEIGHTS, **changes))


def test_a_checkpoint_that_is_none() -> None:
    with pytest.raises(
        UsageError, match="a checkpoint is a file, 'bundled', 'random' or a module, not a list"
    ):
        open_network(request([]))


def test_classes_that_differ(nets) -> None:
    with pytest.raises(UsageError, match="plain has 4 classes, and --num-classes says 5"):
        open_network(request(FACTORY_WEIGHTS, model=f"{nets.__file__}:plain", num_classes=5))


def test_a_starting_description_says_what_is_not_stated(nets) -> None:
    spec = ModelSpec(("no", "yes"), Architecture("x"), threshold=0.3, size_multiple=8)
    network, info = open_network(request(nets.Plain(1), spec=spec))
    assert (network.threshold, network.size_multiple, info.starting) == (0.3, 8, spec)
    network, _ = open_network(request(nets.Plain(1), {"threshold": 0.6, "size_multiple": 4}, spec=spec))
    assert (network.threshold, network.size_multiple) == (0.6, 4)


def test_a_network_of_this_package_in_memory() -> None:
    model, _ = random_model(3, "fcn8s-lite", width=2, fc_channels=4)
    network, info = open_network(request(model, trained_on="bgr"))
    assert network is model and info.kind == "module"
    with pytest.raises(UsageError, match="--trained-on is for checkpoint files"):
        open_network(request(model, trained_on="rgb"))
    with pytest.raises(UsageError, match="--size-multiple is for modules of your own"):
        open_network(request(model, {"size_multiple": 8}))


def test_a_file_of_a_known_layout_needs_no_module_options(tmp_path: Path) -> None:
    model, _ = random_model(3, "fcn8s-same", width=2, fc_channels=4)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    known = {"fcn8s": {"variant": "fcn8s-same", "learned_upscore": None}}
    assert open_network(request(tmp_path / "w.pth", **known))[0].architecture.name == "fcn8s-same"
    with pytest.raises(
        UsageError, match="--logits-stride is for modules of your own, and this is fcn8s-same"
    ):
        open_network(request(tmp_path / "w.pth", {"logits_stride": 8}, **known))


def test_user_modules_are_not_left_on_the_import_path(nets) -> None:
    before = list(sys.path)
    open_network(request(FACTORY_WEIGHTS, model=f"{nets.__file__}:plain"))
    assert sys.path == before
