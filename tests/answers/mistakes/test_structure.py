"""Edits of a graph: each gives what the same network gives in PyTorch with the other setting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from originals import Original, prepared

from fcn_deploy.answers.mistakes.networks import can_be_tried, graph_network
from fcn_deploy.answers.mistakes.structure import StructureEdit, structure_edits

SETTINGS = {
    "multiplies its skips by 0.0001 (pool3) and 0.01 (pool4)": {"skip_scales": (0.0001, 0.01)},
    "does not multiply its skips by 0.0001 (pool3) and 0.01 (pool4)": {"skip_scales": (10000, 100)},
    "rounds down in pooling (ceil_mode=False) and resizes scores to the size that they are to have": {
        "ceil_mode": False,
        "to_size": True,
    },
    "rounds down in pooling (ceil_mode=False) and resizes scores with align_corners=True": {
        "ceil_mode": False,
        "to_size": True,
        "align_corners": True,
    },
    "resizes all maps with align_corners=True, to the size that they are to have": {
        "to_size": True,
        "align_corners": True,
    },
    "resizes all maps with align_corners=True": {"align_corners": True},
    "resizes all maps to the size that they are to have and not by a factor": {"to_size": True},
    "upsamples scores with transposed convolutions, not with a resize": {"transposed": True},
}


@pytest.fixture(scope="module")
def tiny(exported):
    """A narrow network with random weights: its graph, its description and its weights."""
    path, model, spec = exported("fcn8s-lite")
    return onnx.load(str(path)), spec, model.state_dict()


def applicable(graph: onnx.ModelProto) -> list[StructureEdit]:
    return [one for one in structure_edits() if one.applied_to(graph) is not None]


@pytest.mark.parametrize("words", SETTINGS)
def test_an_edit_gives_what_pytorch_gives_with_that_setting(words: str, tiny) -> None:
    graph, spec, weights = tiny
    image = np.random.default_rng(0).integers(0, 256, (71, 93, 3), np.uint8)
    edited = next(one for one in structure_edits() if one.words == words).applied_to(graph)
    with graph_network(edited, spec) as network:
        found = network(image, image.astype(np.float32)).logits
    expected = Original(weights, **SETTINGS[words])(prepared(image)[None])[0].detach().numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    onnx.checker.check_model(edited, full_check=True)


def test_the_graph_itself_is_not_changed(tiny) -> None:
    graph = tiny[0]
    before = graph.SerializeToString(deterministic=True)
    assert len(applicable(graph)) > 10
    assert graph.SerializeToString(deterministic=True) == before


def test_a_paper_network_has_no_resize_to_align_and_its_pooling_may_round_down(exported) -> None:
    path, model, spec = exported("fcn8s")
    graph = onnx.load(str(path))
    edits = applicable(graph)
    assert Counter(kind for one in edits for kind in one.kinds) == {"skip scales": 2, "ceil_mode": 1}
    image = np.random.default_rng(0).integers(0, 256, (71, 93, 3), np.uint8)
    with graph_network(edits[-1].applied_to(graph), spec) as network:
        found = network(image, image.astype(np.float32)).logits
    original = Original(model.state_dict(), padding=100, ceil_mode=False)
    expected = original(prepared(image)[None])[0].detach().numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def module_graph(pooled: bool) -> onnx.ModelProto:
    """A network of two layers that no name gives away."""
    nodes = [
        helper.make_node("Cast", ["image"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        if pooled
        else helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"]),
        helper.make_node("ArgMax", ["e"], ["f"], axis=1, keepdims=0),
        helper.make_node("Cast", ["f"], ["labels"], to=TensorProto.UINT8),
    ]
    for node in nodes:
        node.name = node.output[0]
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(4, 3, 3, 3)), "w2": rng.normal(size=(5, 4, 1, 1))}
    graph = helper.make_graph(
        nodes,
        "any",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, [None, None, None])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_other_networks_get_the_edits_that_they_have_layers_for() -> None:
    assert [one.kinds for one in applicable(module_graph(pooled=True))] == [("ceil_mode",)]
    assert applicable(module_graph(pooled=False)) == []


def test_a_graph_whose_image_is_read_in_another_way_is_not_tried() -> None:
    graph = module_graph(pooled=False)
    assert can_be_tried(graph)
    graph.graph.node.append(helper.make_node("Identity", ["image"], ["unused"]))
    assert not can_be_tried(graph)
