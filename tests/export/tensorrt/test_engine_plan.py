"""What is known before an engine is built: profiles, the memory that it will want, the precision declared."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.errors import UsageError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.precision import to_fp16
from fcn_deploy.export.tensorrt.declared import declared_precision, includes
from fcn_deploy.export.tensorrt.memory import _tensor_bytes, working_set
from fcn_deploy.export.tensorrt.profiles import check_profiles, default_profiles, is_static, parse_profile
from fcn_deploy.runtimes.onnx_file import without_weights
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.spec import PRECISIONS, Architecture, ModelSpec

SIZES = st.tuples(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 4096))


@given(bounds=st.tuples(SIZES, SIZES, SIZES))
def test_a_profile_is_read_as_it_is_shown(bounds) -> None:
    ordered = [tuple(sorted(axis)) for axis in zip(*bounds, strict=True)]
    smallest, tuned, largest = zip(*ordered, strict=True)
    profile = Profile(3, smallest, tuned, largest)
    assert parse_profile(str(profile), 3) == profile


@given(size=SIZES)
def test_one_size_is_all_three(size) -> None:
    profile = parse_profile("x".join(map(str, size)))
    assert profile == Profile(0, size, size, size)
    assert is_static([profile])
    assert not is_static([profile, profile])


@given(bounds=st.tuples(SIZES, SIZES, SIZES))
def test_a_profile_that_shrinks_is_refused(bounds) -> None:
    text = ":".join("x".join(map(str, size)) for size in bounds)
    if all(low <= mid <= high for low, mid, high in zip(*bounds, strict=True)):
        assert str(parse_profile(text)) == text
    else:
        with pytest.raises(UsageError, match="expected min <= opt <= max"):
            parse_profile(text)


@pytest.mark.parametrize(
    "text", ["", "x", "1", "1x2", "1x2x3x4", "1x2x3:", "-1x2x3", "1x2x3:1x2x3:1x2x3:1x2x3"]
)
def test_what_is_no_profile(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected .* as in 1x360x480:1x720x960"):
        parse_profile(text)


@given(height=st.integers(1, 4096), width=st.integers(1, 4096))
def test_the_default_profile_holds_for_every_model(height: int, width: int) -> None:
    spec = ModelSpec(("a", "b"), Architecture("fcn8s-lite"), max_height=height, max_width=width)
    (profile,) = check_profiles(default_profiles(spec), spec)
    assert parse_profile(str(profile)) == profile
    assert profile.fits((1, 1, 1))
    assert profile.fits((1, min(height, 1080), min(width, 1920)))


@pytest.mark.parametrize("size", [(1, 64, 96), (2, 61, 97), (1, 1, 1)])
def test_memory_is_what_the_two_largest_layers_hold(exported, size: tuple[int, int, int]) -> None:
    """conv1_2 of the narrow model reads four channels of the frame's size in fp32 and writes as many."""
    path, _, _ = exported("fcn8s-lite")
    graph = onnx.load_from_string(without_weights(path))
    batch, height, width = size
    expected = 2 * batch * 4 * height * width * 4
    if height > 1:
        assert working_set(graph, size) == expected
    else:
        assert working_set(graph, size) >= expected


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-same", "fcn8s-lite"])
def test_every_activation_is_counted(exported, variant: str) -> None:
    """No tensor of the trunk or the upscores has an unknown size, in fp32 or fp16."""
    model, _ = read_model(exported(variant)[0])
    for graph in (model, to_fp16(model)):
        known = _tensor_bytes(graph, (1, 61, 97))
        layers = [n for n in graph.graph.node if n.op_type in ("Conv", "ConvTranspose", "MaxPool", "Resize")]
        assert [node.name for node in layers if node.output[0] not in known] == []
        assert known["labels"] == 61 * 97
    assert working_set(to_fp16(model), (1, 360, 480)) < 0.8 * working_set(model, (1, 360, 480))


def test_what_a_graph_declares(exported) -> None:
    model, _ = read_model(exported("fcn8s-same", True)[0])
    found = declared_precision(model)
    assert (found.precision, found.layers) == ("fp32", {"fp32": 21})
    assert found.weight_bytes > 4 * 0.99 * found.parameters
    mixed = declared_precision(to_fp16(model, keep_fp32=["conv1_1"]))
    assert mixed.precision == "fp16"
    assert mixed.layers["fp32"] >= 1
    assert sum(mixed.layers.values()) == 21


def test_what_satisfies_a_wish() -> None:
    satisfied = {wanted: [p for p in PRECISIONS if includes(p, wanted)] for wanted in PRECISIONS}
    assert satisfied == {
        "fp32": ["fp32"],
        "fp16": ["fp16", "int8+fp16"],
        "int8": ["int8", "int8+fp16"],
        "int8+fp16": ["int8+fp16"],
    }
