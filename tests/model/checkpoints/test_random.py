"""Seeded random weights."""

from __future__ import annotations

import pytest
import torch
from checkpoint_files import UPSCORES, State

from fcn_deploy.model.checkpoints import random_model
from fcn_deploy.model.fcn8s import VARIANTS


@pytest.mark.parametrize("learned_upscore", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_models_are_seeded_and_have_something_to_disagree_about(
    variant: str, learned_upscore: bool
) -> None:
    learned = learned_upscore or VARIANTS[variant].biased

    def make(seed: int) -> State:
        model, info = random_model(
            4, variant, width=2, fc_channels=8, learned_upscore=learned_upscore, seed=seed
        )
        assert info.kind == "random" and str(seed) in info.name and info.sha256 is None and info.note
        assert not model.training and model.learned_upscore == learned
        frame = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 255 - 120
        with torch.inference_mode():
            logits = model(frame)
        assert torch.isfinite(logits).all() and logits.std() > 0.1
        return model.state_dict()

    one, same, other = make(1), make(1), make(2)
    for key, value in one.items():
        fixed = key in UPSCORES and not learned
        assert torch.equal(value, same[key])
        assert torch.equal(value, other[key]) == fixed, key
        assert fixed or value.abs().max() > 0


def test_random_weights_are_he_normal() -> None:
    model, _ = random_model(21, "fcn8s-same", width=16, fc_channels=256)
    for layer in (model.conv2_2, model.conv5_1, model.fc6, model.score_fr):
        assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)
