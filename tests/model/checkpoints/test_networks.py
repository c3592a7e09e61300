"""Weights are put into a module by their keys, or it is said which do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.networks import can_build, fill, rebuild, torchvision_network
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.model.checkpoints.read import read
from fcn_deploy.model.user import ModuleOptions, UserNetwork
from fcn_deploy.spec import Architecture, ModelSpec

FILE = Path("weights.pth")


class Wrapped(nn.Module):
    """A module that holds the network under another name, as code that returns its logits does."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)


class Indexed(nn.Conv2d):
    """Has a table of whole numbers that is a part of the network."""

    def __init__(self) -> None:
        super().__init__(3, 2, 1)
        self.register_buffer("table", torch.arange(4))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items())


@pytest.mark.parametrize("counters", [True, False])
def test_weights_that_fit_with_or_without_counters(nets, counters: bool) -> None:
    state = weights(nets.Plain(seed=3))
    state["norm.num_batches_tracked"] += 9
    module = nets.Plain(seed=4)
    fill(module, state if counters else without_counters(state), FILE, "Plain")
    assert same(module, without_counters(state))
    assert int(module.norm.num_batches_tracked) == (9 if counters else 0)


def test_keys_that_do_not_fit_are_listed(nets) -> None:
    state = weights(nets.Plain())
    state["head.weight"] = state.pop("score.weight")
    state["stem.bias"] = torch.zeros(9)
    module = nets.Plain(seed=4)
    before = weights(module)
    with pytest.raises(ModelError) as caught:
        fill(module, state, FILE, "Plain")
    assert str(caught.value) == (
        "weights.pth does not fit Plain: 1 unknown: head.weight; 1 missing: score.weight; "
        "1 of the wrong shape: stem.bias [9] instead of [6]"
    )
    assert same(module, before), "nothing was filled"


def test_weights_of_the_wrong_kind(nets) -> None:
    state = weights(nets.Plain())
    with pytest.raises(ModelError, match=r"stem\.bias holds torch\.int64; weights must be floating point"):
        fill(nets.Plain(), {**state, "stem.bias": torch.zeros(6, dtype=torch.int64)}, FILE, "Plain")
    with pytest.raises(
        ModelError, match=r"stem\.bias holds NaN or infinite values; the training run diverged"
    ):
        fill(nets.Plain(), {**state, "stem.bias": torch.full((6,), torch.nan)}, FILE, "Plain")


def test_tables_of_whole_numbers_are_weights_too() -> None:
    state = weights(Indexed())
    state["table"] = torch.tensor([3, 1, 2, 0])
    module = Indexed()
    fill(module, state, FILE, "Indexed")
    assert module.table.tolist() == [3, 1, 2, 0]
    del state["table"]
    with pytest.raises(ModelError, match="1 missing: table"):
        fill(module, state, FILE, "Indexed")


@pytest.mark.parametrize("saved_by", ["the network", "its wrapper", "DataParallel around it"])
@pytest.mark.parametrize("name", ["model", "net", "network", "module"])
def test_wrappers_that_all_names_share(nets, tmp_path: Path, saved_by: str, name: str) -> None:
    """Reading takes them off, and a module whose own names begin so gets them again."""
    source = nets.Plain(seed=3)
    saved = {
        "the network": source,
        "its wrapper": Wrapped(name, source),
        "DataParallel around it": nn.DataParallel(Wrapped(name, source)),
    }[saved_by]
    path = tmp_path / "weights.pth"
    torch.save(saved.state_dict(), path)
    module = Wrapped(name, nets.Plain(seed=4))
    fill(module, read(path).state, path, "Wrapped")
    assert same(getattr(module, name), without_counters(weights(source)))
    bare = nets.Plain(seed=4)
    fill(bare, read(path).state, path, "Plain")
    assert same(bare, without_counters(weights(source)))


def test_a_loss_beside_the_network_need_not_be_in_the_file(nets, tmp_path: Path) -> None:
    """As a training module holds both; reading leaves out what belongs to the loss."""
    source = Wrapped("model", nets.Plain(seed=3))
    source.criterion = nn.Conv2d(1, 1, 1)
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    module = Wrapped("model", nets.Plain(seed=4))
    module.criterion = nn.Conv2d(1, 1, 1)
    fill(module, read(path).state, path, "Training")
    assert same(module.model, without_counters(weights(source.model)))


def test_another_prefix_is_a_difference(nets) -> None:
    state = {f"segmentor.{key}": value for key, value in weights(nets.Plain()).items()}
    with pytest.raises(ModelError, match=r"unknown: segmentor\.stem\.weight, .*missing: stem\.weight"):
        fill(nets.Plain(), state, FILE, "Plain")


def test_what_can_be_built_again(nets) -> None:
    fcn, _ = random_model(3, "fcn8s-lite", width=2, fc_channels=4)
    assert can_build(fcn)

    class fcn8s(nets.Plain):
        pass

    assert not can_build(UserNetwork(fcn8s(), ModuleOptions()))


def test_an_unknown_architecture_is_named() -> None:
    spec = ModelSpec(("a", "b"), Architecture("Plain"))
    with pytest.raises(
        ModelError, match=r"weights\.pth holds weights of Plain, which this version cannot build"
    ):
        rebuild(FILE, {}, spec)


# torchvision's models


LRASPP = "lraspp_mobilenet_v3_large"


@pytest.fixture(scope="module")
def lraspp() -> dict[str, Tensor]:
    models = pytest.importorskip("torchvision").models.segmentation
    torch.manual_seed(0)
    made = models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    return weights(made)


def test_it_is_filled_and_in_evaluation_mode(lraspp) -> None:
    network = torchvision_network(FILE, lraspp, LRASPP)
    assert network.num_classes == 5
    assert same(network.module, without_counters(lraspp))
    assert not any(part.training for part in network.modules())


def test_rebuilt_from_its_description_it_is_the_same(lraspp) -> None:
    network = torchvision_network(FILE, lraspp, LRASPP)
    spec = ModelSpec(tuple("abcde"), network.architecture)
    again = rebuild(FILE, without_counters(lraspp), spec)
    assert can_build(again)
    assert same(again, network.state_dict())


def test_what_does_not_fit(lraspp) -> None:
    score = "classifier.low_classifier.bias"
    with pytest.raises(ModelError, match=f"does not fit {LRASPP}: {score} is missing"):
        torchvision_network(FILE, {k: v for k, v in lraspp.items() if k != score}, LRASPP)
    with pytest.raises(ModelError, match="1 classes; 2 to 255 are possible"):
        torchvision_network(FILE, {**lraspp, score: torch.zeros(1)}, LRASPP)
    with pytest.raises(ModelError, match=r"wrong shape: .*low_classifier\.weight \[5, .*instead of \[6, "):
        torchvision_network(FILE, {**lraspp, score: torch.zeros(6)}, LRASPP)
