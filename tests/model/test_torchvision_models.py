"""torchvision's models are known by their keys, with and without what is not deployed."""

from __future__ import annotations

import pytest
import torch

from fcn_deploy.model.torchvision_models import (
    MODELS,
    TorchvisionNetwork,
    counts,
    keys_of,
    name_of,
    score_key,
)

models = pytest.importorskip("torchvision").models.segmentation


def published_keys(name: str, **more: object) -> set[str]:
    """The keys that a training with torchvision's reference script saves."""
    with torch.device("meta"):
        return set(getattr(models, name)(weights=None, weights_backbone=None, **more).state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_each_is_known_by_its_keys(name: str) -> None:
    assert name_of(published_keys(name, num_classes=7)) == name


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("lraspp")])
def test_the_head_that_only_training_has_does_not_matter(name: str) -> None:
    keys = published_keys(name, aux_loss=True)
    assert any(key.startswith("aux_classifier.") for key in keys)
    assert name_of(keys) == name


def test_no_two_have_the_same_keys() -> None:
    assert len({keys_of(name) for name in MODELS}) == len(MODELS)


def test_a_key_more_or_less_is_another_network() -> None:
    keys = published_keys("fcn_resnet50")
    assert name_of(keys - {"classifier.4.bias"}) is None
    assert name_of({*keys, "classifier.5.bias"}) is None
    assert name_of({"conv1_1.weight"}) is None
    assert name_of(set()) is None


@pytest.mark.parametrize("name", MODELS)
def test_the_score_layer_has_a_number_a_class(name: str) -> None:
    with torch.device("meta"):
        network = TorchvisionNetwork(name, 13)
    assert network.module.state_dict()[score_key(name)].shape == (13,)


def test_it_answers_as_the_module_does_and_reads_rgb() -> None:
    torch.manual_seed(0)
    network = TorchvisionNetwork("lraspp_mobilenet_v3_large", 3).eval()
    frames = torch.rand(1, 3, 33, 41)
    with torch.inference_mode():
        assert torch.equal(network(frames), network.module(frames)["out"])
    assert (network.channel_order, network.num_classes) == ("rgb", 3)
    assert network.architecture.name == "lraspp_mobilenet_v3_large"
    assert network.architecture.options["channel_order"] == "rgb"


@pytest.mark.parametrize(
    ("key", "deployed"),
    [
        ("backbone.conv1.weight", True),
        ("aux_classifier.0.weight", False),
        ("backbone.bn1.num_batches_tracked", False),
    ],
)
def test_what_is_deployed(key: str, deployed: bool) -> None:
    assert counts(key) is deployed
