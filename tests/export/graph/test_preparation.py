"""Scale, mean and colour order in front of the first convolution, as exporters write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.export.graph.preparation import fold_preparation
from fcn_deploy.testing import onnxruntime_session

STEPS = ("Sub", "Add", "Mul", "Div", "flip", "gather", "Identity")


def graph(steps: list[str], seed: int = 0, **changed: Any) -> onnx.ModelProto:
    """uint8 frames, Cast, Transpose, the steps, a padded convolution, and the shape of what it reads."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=changed.get("cast", TensorProto.FLOAT)),
        helper.make_node("Transpose", ["float"], ["planes"], perm=changed.get("perm", [0, 3, 1, 2])),
    ]
    tensors: dict[str, NDArray[Any]] = {
        "kernel": rng.normal(size=(4, changed.get("channels", 3), 3, 3)).astype(np.float32),
        **{"minus": np.array([-1]), "end": np.array([-(2**62)]), "axis": np.array([1])},
        "order": np.array([2, 0, 1]),
    }
    last = "planes"
    for place, step in enumerate(steps):
        made = f"step{place}"
        if step == "flip":
            nodes.append(helper.make_node("Slice", [last, "minus", "end", "axis", "minus"], [made]))
        elif step == "gather":
            nodes.append(helper.make_node("Gather", [last, "order"], [made], axis=1))
        elif step == "Identity":
            nodes.append(helper.make_node("Identity", [last], [made]))
        else:
            shape = rng.choice(3)
            values = rng.uniform(0.5, 3, (3, 1, 1)[: 3 if shape else 1])
            tensors[f"{made}.by"] = (values.reshape(1, 3, 1, 1) if shape == 2 else values).astype(np.float32)
            if not shape:
                tensors[f"{made}.by"] = tensors[f"{made}.by"][:1].reshape(())
            nodes.append(helper.make_node(step, [last, f"{made}.by"], [made], name=f"node{place}"))
        last = made
    if changed.get("pad"):
        tensors["pads"] = np.array([0, 0, 1, 2, 0, 0, 3, 1])
        inputs = [last, "pads"]
        if "value" in changed:
            tensors["value"] = np.array(changed["value"], np.float32)
            inputs.append("value")
        nodes.append(helper.make_node("Pad", inputs, ["padded"], mode=changed.get("mode", "constant")))
        last = "padded"
    nodes += [
        helper.make_node("Shape", [last], ["size"]),
        helper.make_node("Conv", [last, "kernel"], ["y"], pads=[1] * 4, group=changed.get("group", 1)),
    ]
    if changed.get("second"):
        nodes.append(helper.make_node("Relu", [last], ["other"]))
    outputs: list[tuple[str, int, list[Any]]] = [
        ("y", TensorProto.FLOAT, ["n", 4, "rows", "columns"]),
        ("size", TensorProto.INT64, [4]),
    ]
    outputs += [("other", TensorProto.FLOAT, ["n", 3, "h", "w"])] if changed.get("second") else []
    made_graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def results(model: onnx.ModelProto) -> list[NDArray[Any]]:
    frames = np.random.default_rng(9).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    found: list[NDArray[Any]] = onnxruntime_session(model).run(None, {"image": frames})
    return found


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=5), seed=st.integers(0, 99), pad=st.booleans()
)
def test_results_stay_and_one_sub_is_left_of_the_steps(steps: list[str], seed: int, pad: bool) -> None:
    model = graph(steps, seed, pad=pad)
    expected = results(model)
    kernel = numpy_helper.to_array(model.graph.initializer[0]).copy()
    folded = fold_preparation(model)
    for found, wanted in zip(results(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-6 * np.abs(wanted).max())
    onnx.checker.check_model(model, full_check=True)
    changed = not np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), kernel)
    assert folded == changed
    if folded:
        before = operators(model)[2 : operators(model).index("Pad" if pad else "Conv")]
        assert [kind for kind in before if kind != "Shape"] in ([], ["Sub"])
    assert not fold_preparation(model), "there is nothing left to fold"


def test_a_usual_preparation() -> None:
    model = graph(["flip", "Sub", "Div"])
    assert fold_preparation(model)
    assert operators(model) == ["Cast", "Transpose", "Sub", "Shape", "Conv"]
    names = {tensor.name for tensor in model.graph.initializer}
    assert "minus" not in names, "constants that nothing reads are gone"


UNCHANGED: dict[str, Callable[[], onnx.ModelProto]] = {
    "only a mean": lambda: graph(["Sub"]),
    "nothing": lambda: graph([]),
    "another reader": lambda: graph(["Div"], second=True),
    "grouped": lambda: _grouped(),
    "padded with a colour": lambda: graph(["Div"], pad=True, value=7.0),
    "padded with the border": lambda: graph(["Div"], pad=True, mode="edge"),
    "another layout": lambda: graph(["Div"], perm=[0, 3, 2, 1]),
}


def _grouped() -> onnx.ModelProto:
    model = graph(["Div"])
    kernel = model.graph.initializer[0]
    values = numpy_helper.to_array(kernel)[:3, :1]
    kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), kernel.name))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(a for a in conv.attribute if a.name == "group").i = 3
    return model


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_cannot_be_folded_stays_as_it_is(name: str) -> None:
    model = UNCHANGED[name]()
    before = model.SerializeToString(deterministic=True)
    assert not fold_preparation(model)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_that_another_layer_shares_are_copied() -> None:
    model = graph(["Div"])
    model.graph.node.append(helper.make_node("Conv", ["z", "kernel"], ["shared"]))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 8, 8]))
    model.graph.output.append(helper.make_tensor_value_info("shared", TensorProto.FLOAT, [1, 4, 6, 6]))
    kernel = numpy_helper.to_array(model.graph.initializer[0]).copy()
    assert fold_preparation(model)
    kept = next(tensor for tensor in model.graph.initializer if tensor.name == "kernel")
    np.testing.assert_array_equal(numpy_helper.to_array(kept), kernel)
    onnx.checker.check_model(model, full_check=True)
