"""Descriptions and identities are read from the bytes, and weights from nowhere else than beside them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from fcn_deploy.errors import FcnDeployError, ModelError, UsageError
from fcn_deploy.runtimes.artefact import identity, read_spec
from fcn_deploy.runtimes.onnx_file import check_external_data, without_weights
from fcn_deploy.spec import METADATA_KEY


def test_the_description_of_an_onnx_file(tiny: Path, build) -> None:
    assert read_spec(tiny) == build.spec


def test_the_description_of_a_safetensors_file(lite: Path) -> None:
    assert read_spec(lite).classes == tuple("abcde")


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path: Path, build) -> None:
    assert read_spec(build.onnx_file(tmp_path / "TINY.ONNX")) == build.spec


def test_a_graph_without_its_weights_has_the_same_nodes(tiny: Path, build) -> None:
    big = build.graph()
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "big")
    big.graph.initializer.append(weights)
    path = tiny.with_name("big.onnx")
    path.write_bytes(build.describe(big).SerializeToString())
    light = onnx.load_from_string(without_weights(path))
    assert [node.SerializeToString() for node in light.graph.node] == [
        node.SerializeToString() for node in big.graph.node
    ]
    kept = {t.name: t for t in light.graph.initializer}
    assert (kept["big"].raw_data, list(kept["big"].dims)) == (b"", [64, 64])
    assert kept["weight"] == big.graph.initializer[0]
    assert len(without_weights(path)) < path.stat().st_size - 64 * 64 * 4


def test_an_onnx_file_of_someone_else(tmp_path: Path, build) -> None:
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(build.graph().SerializeToString())
    with pytest.raises(ModelError, match=r"foreign\.onnx carries no description .* fcn-deploy export"):
        read_spec(foreign)


def test_a_description_that_is_damaged_names_the_file(tmp_path: Path, build) -> None:
    model = build.graph()
    helper.set_model_props(model, {METADATA_KEY: "{not json"})
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"odd\.onnx"):
        read_spec(path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".PTH"])
def test_a_checkpoint_has_to_be_exported_first(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"export it first: fcn-deploy export --weights .* -o net\.onnx"):
        read_spec(path)


def test_other_files_are_no_artefacts(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(b"pixels")
    with pytest.raises(UsageError, match=r"frame\.png is no artefact; expected .*\.onnx"):
        read_spec(path)


def test_missing_empty_and_folders(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    for name, told in (("none", "does not exist"), ("empty", "is empty"), ("folder", "is a folder")):
        with pytest.raises(UsageError, match=told):
            read_spec(tmp_path / f"{name}.onnx")


@given(data=st.data())
def test_no_part_of_an_onnx_file_passes_for_the_whole(data, tiny: Path, tmp_path_factory) -> None:
    whole = tiny.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.onnx"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        read_spec(path)


@given(content=st.binary(min_size=1, max_size=300))
def test_no_bytes_raise_anything_else(content: bytes, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("garbage") / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"garbage\.onnx"):
        read_spec(path)


@given(data=st.data())
def test_changed_bytes_raise_nothing_else(data, tiny: Path, tmp_path_factory) -> None:
    changed = bytearray(tiny.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=5)):
        changed[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "changed.onnx"
    path.write_bytes(changed)
    for look in (read_spec, check_external_data, identity):
        with contextlib.suppress(FcnDeployError):
            look(path)


def test_a_truncated_safetensors_file(lite: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(lite.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut\.safetensors is not a complete safetensors file"):
        read_spec(path)


def test_the_identity_is_that_of_graph_and_weights(tmp_path: Path, build) -> None:
    bare = build.graph()
    expected = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
    one = build.onnx_file(tmp_path / "one.onnx")
    other = build.onnx_file(tmp_path / "other.onnx", build.spec.replace(note="described anew"))
    assert one.read_bytes() != other.read_bytes()
    assert identity(one) == identity(other) == expected

    bare.graph.initializer[0].raw_data = bytes(len(bare.graph.initializer[0].raw_data))
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(build.describe(bare).SerializeToString())
    assert identity(changed) != expected


def test_the_exporter_calls_it_by_the_same_identity(tiny: Path) -> None:
    from fcn_deploy.export.graph import files as graph

    assert identity(tiny) == graph.identity(onnx.load(tiny))


def test_external_weights_are_part_of_the_identity(tmp_path: Path, build) -> None:
    path, data = tmp_path / "big.onnx", tmp_path / "big.data"
    weights = build.external(path, "big.data")
    data.write_bytes(weights)
    before = identity(path)
    data.write_bytes(bytes(len(weights)))
    assert identity(path) != before


def test_the_identity_of_other_artefacts_is_that_of_the_file(lite: Path) -> None:
    assert identity(lite) == hashlib.sha256(lite.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path, build) -> Callable[[str], Path]:
    """Weights of the right length at several places, and a model that names one of them."""

    def make(location: str) -> Path:
        folder = tmp_path / "model"
        (folder / "sub").mkdir(parents=True)
        weights = build.external(folder / "net.onnx", location.format(here=folder, above=tmp_path))
        for place in (tmp_path, folder, folder / "sub"):
            (place / "w.data").write_bytes(weights)
        (folder / "short.data").write_bytes(weights[:-1])
        (folder / "link.data").symlink_to("w.data")
        (folder / "out.data").symlink_to("../w.data")
        (folder / "up").symlink_to("..")
        (folder / "loop.data").symlink_to("loop.data")
        return folder / "net.onnx"

    return make


INSIDE = ["w.data", "./w.data", "sub/w.data", "sub/../w.data", "link.data"]
OUTSIDE = [
    "../w.data",
    "{above}/w.data",
    "{here}/w.data",
    "out.data",
    "up/w.data",
    "sub/../../w.data",
    "/etc/passwd",
]
MISSING = [
    "none.data",
    "sub",
    "",
    "loop.data",
    "zero\0byte",
    "x" * 300,
    "*/_ORT_MEM_ADDR_/*",
    "../nowhere/w.data",
]


@pytest.mark.parametrize("location", INSIDE)
def test_weights_beside_the_model_may_be_read(model: Callable[[str], Path], location: str) -> None:
    check_external_data(model(location))


@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_elsewhere_are_refused(model: Callable[[str], Path], location: str) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx reads its weights from .*, outside its own folder"):
        check_external_data(model(location))


@pytest.mark.parametrize("location", MISSING)
def test_weights_that_are_not_there(model: Callable[[str], Path], location: str) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx: its weights file .* is missing"):
        check_external_data(model(location))


def test_weights_that_were_cut_off(model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"short\.data has 47 bytes and at least 48 are needed"):
        check_external_data(model("short.data"))


def test_weights_in_the_folder_that_a_linked_model_comes_from(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    real = model("w.data")
    links = tmp_path / "links"
    links.mkdir()
    (links / "net.onnx").symlink_to(real)
    (links / "w.data").symlink_to(real.with_name("w.data"))
    check_external_data(links / "net.onnx")
    (links / "w.data").unlink()
    (links / "w.data").write_bytes(real.with_name("w.data").read_bytes())
    check_external_data(links / "net.onnx")
    (links / "w.data").unlink()
    (links / "w.data").symlink_to(tmp_path / "w.data")
    with pytest.raises(ModelError, match="outside its own folder"):
        check_external_data(links / "net.onnx")


def test_a_relative_path_in_the_current_folder(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model("w.data")
    monkeypatch.chdir(path.parent)
    check_external_data(Path(path.name))


def hidden_tensors() -> dict[str, Callable[[onnx.ModelProto, onnx.TensorProto], None]]:
    """Places of a model where a tensor may hide."""

    def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
        return helper.make_node("Constant", [], ["hidden"], value=tensor)

    def subgraph(tensor: onnx.TensorProto) -> onnx.GraphProto:
        return helper.make_graph([constant(tensor)], "branch", [], [])

    def sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
        indices = numpy_helper.from_array(np.array([0], np.int64), "indices")
        return helper.make_sparse_tensor(tensor, indices, [4])

    def two_tensors(tensor: onnx.TensorProto) -> onnx.AttributeProto:
        return helper.make_attribute("all", [tensor, tensor])

    def odd(attribute: onnx.AttributeProto) -> onnx.NodeProto:
        node = helper.make_node("Odd", [], ["hidden"])
        node.attribute.append(attribute)
        return node

    def function(tensor: onnx.TensorProto) -> onnx.FunctionProto:
        return helper.make_function(
            "own", "F", [], ["hidden"], [constant(tensor)], [helper.make_opsetid("", 20)]
        )

    return {
        "initializer": lambda m, t: m.graph.initializer.append(t),
        "sparse initializer": lambda m, t: m.graph.sparse_initializer.append(sparse(t)),
        "constant": lambda m, t: m.graph.node.append(constant(t)),
        "list of tensors": lambda m, t: m.graph.node.append(odd(two_tensors(t))),
        "sparse constant": lambda m, t: m.graph.node.append(odd(helper.make_attribute("sparse", sparse(t)))),
        "branch": lambda m, t: m.graph.node.append(odd(helper.make_attribute("then", subgraph(t)))),
        "branches": lambda m, t: m.graph.node.append(odd(helper.make_attribute("all", [subgraph(t)]))),
        "function": lambda m, t: m.functions.append(function(t)),
    }


@pytest.mark.parametrize("place", hidden_tensors())
def test_a_tensor_hides_nowhere(tmp_path: Path, build, place: str) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    build.keep_outside(tensor, "../secret")
    (tmp_path / "secret").write_bytes(bytes(16))
    model = build.describe(build.graph())
    hidden_tensors()[place](model, tensor)
    path = tmp_path / "model" / "net.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its own folder"):
        check_external_data(path)


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    nested = b""
    for _ in range(3000):
        for tag in (0x32, 0x2A, 0x0A):  # attribute.g, node.attribute, graph.node
            nested = bytes([tag]) + varint(len(nested)) + nested
    path = tmp_path / "deep.onnx"
    path.write_bytes(bytes([0x3A]) + varint(len(nested)) + nested)
    with pytest.raises(ModelError, match=r"deep\.onnx is not a complete ONNX file"):
        check_external_data(path)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_weights_inside_the_file_are_not_looked_for_elsewhere(tiny: Path) -> None:
    check_external_data(tiny)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path, build) -> None:
    path = build.onnx_file(tmp_path / "private.onnx")
    path.chmod(0)
    with pytest.raises(UsageError, match=r"private\.onnx may not be read"):
        read_spec(path)
