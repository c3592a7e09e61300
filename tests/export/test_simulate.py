from __future__ import annotations

import numpy as np
import torch

from fcn_deploy.export.simulate import SimulatedFp16, round_layers, rounded
from fcn_deploy.model.deploy import reference_labels


def test_rounding_is_that_of_half_precision_and_keeps_overflow():
    values = torch.tensor([1.0, 1.0001, 2049.0, 65504.0, 70000.0])
    assert rounded(values).tolist() == [1.0, 1.0, 2048.0, 65504.0, float("inf")]


def test_every_layer_gives_half_precision_numbers(exported):
    _, model, _ = exported("fcn8s-lite")
    seen = []
    simulated = round_layers(model)
    for name in ("conv1_1", "conv4_2", "fc7", "score_pool3", "upscore8"):
        getattr(simulated, name).register_forward_hook(lambda _, __, out: seen.append(out))
    simulated(torch.randn(1, 3, 64, 48) * 50)
    assert len(seen) == 5
    for out in seen:
        assert (rounded(out) == out).all()


def test_it_answers_nearly_as_fp32_and_an_overflow_shows(exported):
    _, model, spec = exported("fcn8s-lite")
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    expected = reference_labels(model, spec, frames)
    agreement = (SimulatedFp16(model, spec).infer(frames).labels == expected).mean()
    assert agreement > 0.98
    with torch.no_grad():
        model.conv3_1.weight.mul_(1e5)
        loud = SimulatedFp16(model, spec).infer(frames).labels
        model.conv3_1.weight.div_(1e5)
    assert (loud == expected).mean() < 0.9


def test_the_logits_of_the_paper_s_variant_are_rounded_too(exported):
    _, model, spec = exported("fcn8s")
    simulated = SimulatedFp16(model, spec)
    read_by_argmax = []
    upscore = simulated._deploy.upscore
    simulated._deploy.upscore = lambda *maps: read_by_argmax.append(upscore(*maps)) or read_by_argmax[-1]
    simulated.infer(np.full((1, 40, 30, 3), 90, np.uint8))
    assert (rounded(read_by_argmax[0]) == read_by_argmax[0]).all()
