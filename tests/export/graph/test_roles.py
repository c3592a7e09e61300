"""Roles of layers are read off the graph, whatever its layers are called."""

from __future__ import annotations

import onnx
import pytest
from small_networks import NETWORKS

from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.graph.roles import (
    first_convolutions,
    logits_of,
    network_tensors,
    pixel_tensors,
    pooled_layers,
    score_layers,
)


@pytest.mark.parametrize(
    ("name", "first", "scores", "pooled"),
    [
        ("mobile", ["first"], ["score_of_high", "score_of_low"], ["squeeze", "excite"]),
        ("residual", ["first"], ["classify"], ["context.pooled"]),
        ("unet", ["down"], ["head"], []),
    ],
)
def test_roles_of_small_networks(name: str, first: list[str], scores: list[str], pooled: list[str]) -> None:
    model = NETWORKS[name]()
    assert first_convolutions(model) == first
    assert score_layers(model) == scores
    assert pooled_layers(model) == pooled
    assert logits_of(model) == "upscored"


@pytest.mark.parametrize("outputs", [("labels",), ("labels", "confidence", "logits")])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("variant", ["fcn8s-lite", "fcn8s"])
def test_roles_of_an_fcn8s(exported, variant: str, learned: bool, outputs: tuple[str, ...]) -> None:
    if variant == "fcn8s-lite" and learned and len(outputs) > 1:
        pytest.skip("this form is not exported by other tests, and an export takes seconds")
    model, _ = read_model(exported(variant, learned, outputs=outputs)[0])
    assert first_convolutions(model) == ["conv1_1"]
    assert sorted(score_layers(model)) == ["score_fr", "score_pool3", "score_pool4"]
    assert pooled_layers(model) == []


def test_preparation_sizes_and_the_network_are_told_apart() -> None:
    model = NETWORKS["mobile"]()
    pixels, network = pixel_tensors(model), network_tensors(model)
    assert {"image", "prepared"} <= pixels - network
    assert {"first", "scores", "best", "labels"} <= network < pixels
    assert pixels.isdisjoint({"upscored.side", "upscored.maps", "upscored.sizes", "mean"})


ONE_CHANNEL = """
<ir_version: 10, opset_import: ["" : 20]>
g (uint8[n, h, w, 3] image) => (uint8[n, h, w] labels)
<float[1,3,1,1] w1 = {1, 1, 1}, float[1,1,1,1] w2 = {1}, float[1,1,1,1] limit = {0}>
{
  [cast] x = Cast <to = 1> (image)
  [planes] p = Transpose <perm = [0, 3, 1, 2]> (x)
  [inner] a = Conv (p, w1)
  [act] b = Relu (a)
  [score] s = Conv (b, w2)
  [above] c = Greater (s, limit)
  [small] d = Cast <to = 2> (c)
  [axis] one = Constant <value_ints = [1]> ()
  [flat] labels = Squeeze (d, one)
}
"""


def test_a_single_channel_compared_with_a_threshold_has_a_score_layer_too() -> None:
    model = onnx.parser.parse_model(ONE_CHANNEL)
    assert score_layers(model) == ["score"] and first_convolutions(model) == ["inner"]
    assert logits_of(model) is None
