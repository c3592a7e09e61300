"""A plain file that the user exported: what it is fed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.bench.prepare import Exported
from fcn_deploy.model.user import ModuleOptions, UserNetwork
from fcn_deploy.spec import Architecture, ModelSpec


def exported(architecture: Architecture, **fields: int) -> Exported:
    return Exported(Path("plain.onnx"), ModelSpec(("a", "b", "c"), architecture, **fields))


def test_a_users_network_says_its_channel_order_and_multiple(nets) -> None:
    network = UserNetwork(nets.UNet(3), ModuleOptions(size_multiple=8))
    assert exported(network.architecture, size_multiple=8).reads == {"order": "rgb", "multiple": 8}
    bgr = UserNetwork(nets.Plain(), ModuleOptions(channel_order="bgr"))
    assert exported(bgr.architecture).reads == {"order": "bgr", "multiple": 1}


def test_torchvisions_networks_read_rgb() -> None:
    pytest.importorskip("torchvision")
    import torch

    from fcn_deploy.model.torchvision_models import TorchvisionNetwork

    with torch.device("meta"):
        network = TorchvisionNetwork("lraspp_mobilenet_v3_large", 3)
    assert exported(network.architecture).reads["order"] == "rgb"


def test_fcn8s_reads_bgr() -> None:
    assert exported(Architecture("fcn8s-lite", {"width": 4})).reads == {"order": "bgr", "multiple": 1}


def test_it_is_named_in_the_row() -> None:
    assert exported(Architecture("x")).description.startswith("plain.onnx as it was exported elsewhere, ")
