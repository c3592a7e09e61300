"""The plain network as the reference, in float32 and, where it can, in float64."""

from __future__ import annotations

import numpy as np
import torch

from fcn_deploy.export.reference import reference_of
from fcn_deploy.model.user import ModuleOptions, UserNetwork
from fcn_deploy.spec import ModelSpec, Reference

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8)


def spec_of(network: UserNetwork) -> ModelSpec:
    reference = Reference(network.architecture.name, "module")
    return ModelSpec(tuple("abcd"), network.architecture, reference=reference)


def test_both_precisions_agree_and_the_network_stays_as_it_is(nets) -> None:
    network = UserNetwork(nets.Plain(), ModuleOptions())
    reference = reference_of(network, spec_of(network))
    single, double = reference.logits(FRAMES), reference.exact(FRAMES)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(single - double).max() < 1e-5 * np.abs(double).max()
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert reference.network == "Plain"
    assert reference.name == "plain Plain in PyTorch fp32 behind numpy preprocessing"


def test_a_network_that_makes_float32_of_its_own_has_no_float64(nets) -> None:
    network = UserNetwork(nets.Own32(), ModuleOptions())
    reference = reference_of(network, spec_of(network))
    assert reference.logits(FRAMES).shape == (2, 4, 9, 11)
    assert reference.exact(FRAMES) is None
