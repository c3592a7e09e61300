from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn_deploy.errors import ExportError, ParityError, UsageError
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.model.checkpoints.describe import describe
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.model.deploy import DeployModel, reference_labels, reference_logits
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s
from fcn_deploy.spec import METADATA_KEY, ModelSpec
from fcn_deploy.testing import onnxruntime_session, openvino_model

ALL_OUTPUTS = ("labels", "confidence", "logits")

# Learned upscores are the same ones with and without the scaled skips; those of the lecture always are.
FORMS = [
    *((variant, False) for variant in VARIANTS if variant != "fcn8s-lecture-norelu"),
    *((variant, True) for variant in ("fcn8s", "fcn8s-same", "fcn8s-lite")),
    pytest.param("fcn8s-atonce", True, marks=pytest.mark.slow),
    pytest.param("fcn8s-lecture-norelu", False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("variant", "learned"), FORMS)
def test_every_variant_answers_as_the_plain_module(exported, variant, learned):
    path, _, spec = exported(variant, learned)
    evidence = spec.evidence["parity"]
    assert len(evidence["sizes"]) >= 8
    assert evidence["max_relative_error"] < 1e-5
    assert evidence["differences_beyond_ties"] == 0
    assert evidence["min_agreement"] > 0.999
    assert path.stat().st_size > 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 3), height=st.integers(1, 140), width=st.integers(1, 140))
def test_any_size_in_one_session(exported, batch, height, width):
    path, model, spec = exported("fcn8s-lite")
    frames = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    session = onnxruntime_session(path)
    (labels,) = session.run(None, {"image": frames})
    assert labels.dtype == np.uint8
    assert labels.shape == (batch, height, width)
    expected = reference_labels(model, spec, frames)
    assert (labels == expected).mean() > 0.999


def test_confidence_and_logits_on_request(exported):
    path, model, spec = exported("fcn8s", outputs=ALL_OUTPUTS)
    frames = np.random.default_rng(1).integers(0, 256, (2, 61, 47, 3), dtype=np.uint8)
    session = onnxruntime_session(path)
    labels, confidence, logits = session.run(list(ALL_OUTPUTS), {"image": frames})
    reference = reference_logits(model, spec, frames)
    np.testing.assert_allclose(logits, reference, atol=1e-4 * np.abs(reference).max())
    winner = torch.softmax(torch.from_numpy(reference), 1).amax(1).numpy()
    np.testing.assert_allclose(confidence, winner, atol=1e-3)
    assert (labels == logits.argmax(1)).all()


def test_the_contract_of_the_graph(exported):
    path, _, spec = exported("fcn8s-lite", outputs=ALL_OUTPUTS)
    model = onnx.load(path)
    assert model.ir_version <= 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    axes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "image": ["batch", "height", "width", 3],
        "labels": ["batch", "height", "width"],
        "confidence": ["batch", "height", "width"],
        "logits": ["batch", 5, "height", "width"],
    }
    readers = [n.op_type for n in model.graph.node if "image" in n.input]
    assert set(readers) <= {"Cast", "Shape"}, "TensorRT takes a uint8 input through Cast only"
    metadata = {p.key: p.value for p in model.metadata_props}
    assert ModelSpec.from_json(metadata[METADATA_KEY]) == ModelSpec.from_json(spec.to_json())


def test_layers_carry_the_network_s_names_and_no_path_of_this_machine(exported):
    path, _, _ = exported("fcn8s-lite")
    names = {n.name for n in onnx.load(path).graph.node}
    assert {"conv1_1", "conv5_3.relu", "pool3", "fc6", "score_pool4"} <= names
    raw = path.read_bytes()
    assert os.fsencode(Path(torch.__file__).parent) not in raw
    assert os.fsencode(Path(__file__).parents[2]) not in raw


def test_rgb_frames_give_the_same_labels_as_bgr_ones(exported):
    path, model, spec = exported("fcn8s-lite", color_order="rgb")
    spec = spec.replace(color_order="bgr")
    frames = np.random.default_rng(2).integers(0, 256, (1, 70, 50, 3), dtype=np.uint8)
    session = onnxruntime_session(path)
    (labels,) = session.run(None, {"image": np.ascontiguousarray(frames[..., ::-1])})
    assert (labels == reference_labels(model, spec, frames)).mean() > 0.999


def test_a_graph_that_answers_otherwise_is_refused_and_not_written(
    exported, traced_once, tmp_path, monkeypatch
):
    _, model, spec = exported("fcn8s-lite")
    right = DeployModel.__init__

    def otherwise(self, *args, **kwargs):
        right(self, *args, **kwargs)
        self.mean *= 1.01

    monkeypatch.setattr(DeployModel, "__init__", otherwise)
    target = tmp_path / "wrong.onnx"
    target.write_bytes(b"the old one")
    with traced_once(), pytest.raises(ParityError, match="differ from those of fcn8s-lite by"):
        export_onnx(model, spec, target)
    assert target.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.onnx"]


def test_a_crop_that_is_one_pixel_off_is_refused(exported, tmp_path, monkeypatch):
    _, model, spec = exported("fcn8s")
    right = FCN8s.logits_to_crop

    def shifted(self, frames, rewrites):
        logits, offset = right(self, frames, rewrites)
        return logits, offset + 1

    monkeypatch.setattr(FCN8s, "logits_to_crop", shifted)
    with pytest.raises(ParityError):
        export_onnx(model, spec, tmp_path / "wrong.onnx")


@pytest.mark.parametrize("target", [".", "missing/model.onnx"])
def test_a_target_that_cannot_be_written_is_found_out_first(tmp_path, target):
    model, info = random_model(3, "fcn8s-lite", width=2, fc_channels=2)
    with pytest.raises(UsageError, match="cannot be written"):
        export_onnx(model, describe(model, info), tmp_path / target)


def test_unknown_precision(tmp_path):
    model, info = random_model(3, "fcn8s-lite", width=2, fc_channels=2)
    with pytest.raises(UsageError, match="INT8 is made by quantize"):
        export_onnx(model, describe(model, info), tmp_path / "m.onnx", precision="int8")


def test_an_exporter_that_fails_is_one_clear_error(tmp_path, monkeypatch):
    model, info = random_model(3, "fcn8s-lite", width=2, fc_channels=2)

    def broken(*_, **__):
        raise RuntimeError("some private failure")

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(ExportError, match="could not export") as caught:
        export_onnx(model, describe(model, info), tmp_path / "m.onnx")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_evidence_survives_json(exported):
    _, _, spec = exported("fcn8s-lite")
    assert json.loads(spec.to_json())["evidence"]["parity"]["sizes"][0]["height"] == 1
    assert spec.provenance[0]["kind"] == "random"


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_openvino_answers_the_same_from_one_pixel_up(exported, variant):
    pytest.importorskip("openvino")
    path, model, spec = exported(variant)
    compiled = openvino_model(path)
    for height, width in ((1, 1), (16, 17), (31, 33), (97, 131)):
        frames = np.random.default_rng(height).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        labels = compiled(frames)[0]
        assert (labels == reference_labels(model, spec, frames)).mean() > 0.999
