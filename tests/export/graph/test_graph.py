from __future__ import annotations

import numpy as np
import onnx
import pytest

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.export.graph.files import identity, read_model, set_metadata, write_model
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.runtimes import artefact
from fcn_deploy.testing import onnxruntime_session


def test_identity_ignores_metadata_and_notices_a_weight(exported):
    model, _ = read_model(exported("fcn8s-lite")[0])
    before = identity(model)
    set_metadata(model, {"note": "anything"})
    assert identity(model) == before
    assert {p.key for p in model.metadata_props} > {"note"}
    weight = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    assert identity(model) != before


def test_beyond_two_gigabytes_the_weights_go_into_one_file_beside(exported, tmp_path, monkeypatch):
    model, spec = read_model(exported("fcn8s-lite")[0])
    for module in ("files", "session"):
        monkeypatch.setattr(f"fcn_deploy.export.graph.{module}.SINGLE_FILE_LIMIT", 1000)
    target = tmp_path / "big.onnx"
    write_model(model, spec, target)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".data", ".onnx"]
    frames = np.zeros((1, 40, 40, 3), np.uint8)
    (labels,) = onnxruntime_session(target).run(None, {"image": frames})
    again, _ = read_model(target)
    with open_session(again) as session:
        assert (session.run(["labels"], {"image": frames})[0] == labels).all()

    weight = next(t for t in again.graph.initializer if t.name == "fc6.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
    write_model(again, spec, target)
    assert len(list(tmp_path.iterdir())) == 2, "the weights of the older file are removed"


def test_a_model_without_our_description_is_refused(tmp_path):
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "m.onnx"
    )
    with pytest.raises(ModelError, match="carries no description"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"\x00garbage", b"\xff" * 100])
def test_damaged_files(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        read_model(tmp_path / "m.onnx")


def test_an_empty_file(tmp_path):
    (tmp_path / "m.onnx").touch()
    with pytest.raises(UsageError, match="is empty"):
        read_model(tmp_path / "m.onnx")


def test_weights_outside_the_model_s_folder_are_refused(exported, tmp_path, monkeypatch):
    model, spec = read_model(exported("fcn8s-lite")[0])
    for module in ("files", "session"):
        monkeypatch.setattr(f"fcn_deploy.export.graph.{module}.SINGLE_FILE_LIMIT", 1000)
    inside = tmp_path / "inside"
    inside.mkdir()
    write_model(model, spec, inside / "m.onnx")
    light = onnx.load(inside / "m.onnx", load_external_data=False)
    data = next(inside.glob("*.data"))
    data.rename(tmp_path / data.name)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"../{data.name}"
    (inside / "m.onnx").write_bytes(light.SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx"):
        read_model(inside / "m.onnx")


def test_external_weights_can_be_written_into_the_current_folder(exported, tmp_path, monkeypatch):
    """onnx looks for the weights' file in the working folder, too, and refuses one that exists."""
    model, spec = read_model(exported("fcn8s-lite")[0])
    for module in ("files", "session"):
        monkeypatch.setattr(f"fcn_deploy.export.graph.{module}.SINGLE_FILE_LIMIT", 1000)
    monkeypatch.chdir(tmp_path)
    written = write_model(model, spec, "big.onnx")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".data", ".onnx"]
    assert artefact.check_digest("big.onnx") is True
    assert artefact.read_spec("big.onnx") == written


def test_the_digest_finds_a_changed_weight_beside_the_graph(exported, tmp_path, monkeypatch):
    model, spec = read_model(exported("fcn8s-lite")[0])
    monkeypatch.setattr("fcn_deploy.export.graph.files.SINGLE_FILE_LIMIT", 1000)
    write_model(model, spec, tmp_path / "big.onnx")
    data = next(tmp_path.glob("*.data"))
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert artefact.check_digest(tmp_path / "big.onnx") is False
