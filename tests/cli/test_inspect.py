"""inspect: what an artefact is, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from fcn_deploy.files import sha256_of
from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec

EVIDENCE = {
    "parity": {
        **{"tolerance": 1e-4, "max_relative_error": 3e-7, "min_agreement": 0.9999},
        **{"differences_beyond_ties": 0, "sizes": [{}] * 8},
    },
    "fp16_range": {
        **{"largest": 812.5, "limit": 65504.0, "layer": "conv3_2", "frames": 8},
        "source": "the synthetic street clip",
    },
    "made": {"tool": "fcn-deploy 0.1.0", "opset": 20},
}


def with_spec(artefact: Path, path: Path, **changes: object) -> Path:
    """A copy of an ONNX artefact with another description."""
    model = onnx.load(str(artefact))
    spec = ModelSpec.from_json(model.metadata_props[0].value).replace(**changes)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, str(path))
    return path


def test_json_holds_file_graph_and_spec(cli, artefact: Path) -> None:
    facts = json.loads(cli("inspect", artefact, "--json").stdout)
    assert facts["bytes"] == artefact.stat().st_size
    assert facts["sha256"] == sha256_of(artefact) != facts["identity"]
    graph = facts["contents"]
    assert (graph["opset"], graph["ir_version"]) == (20, 10)
    assert graph["inputs"] == [{"name": "image", "type": "uint8", "shape": ["batch", "height", "width", 3]}]
    assert graph["operators"]["Cast"] == 2
    assert facts["spec"]["classes"] == ["blue", "green", "red"]


def test_words_hold_evidence_and_the_chain(cli, artefact: Path, tmp_path: Path) -> None:
    chain = (
        {"kind": "safetensors", "name": "model.safetensors", "sha256": "ab" * 32},
        {"kind": "random", "name": "random (seed 0)", "sha256": None},
    )
    path = with_spec(artefact, tmp_path / "m.onnx", evidence=EVIDENCE, provenance=chain)
    told = cli("inspect", path).stdout
    assert "relative logit error at most 3e-07 (allowed 0.0001), labels agree to 99.9900% (ties only)" in told
    assert "largest 812.5 of 65504, in conv3_2, on 8 frames of the synthetic street clip" in told
    assert "image uint8 [batch, height, width, 3]" in told
    assert "2 Cast" in told and "opset 20, IR 10" in told
    assert told.index(f"1. safetensors model.safetensors  sha256 {'ab' * 32}") < told.index(
        "2. random (seed 0)"
    )
    assert "a test's graph" in told


def test_evidence_of_another_kind_does_not_stop_it(cli, artefact: Path, tmp_path: Path) -> None:
    path = with_spec(artefact, tmp_path / "m.onnx", evidence={"parity": {"sizes": 3}})
    result = cli("inspect", path)
    assert result.exit_code == 0
    assert "cannot read; see --json" in result.stdout


def test_safetensors_from_its_header(cli, tmp_path: Path) -> None:
    torch_free = pytest.importorskip("safetensors.numpy")
    import numpy as np

    spec = ModelSpec(classes=("a", "b"), architecture=Architecture("fcn8s-lite"))
    path = tmp_path / "m.safetensors"
    weights = {"conv1_1.weight": np.zeros((4, 3, 3, 3), np.float16), "conv1_1.bias": np.zeros(4, np.float32)}
    torch_free.save_file(weights, path, {METADATA_KEY: spec.to_json()})
    facts = json.loads(cli("inspect", path, "--json").stdout)
    assert facts["contents"] == {"tensors": 2, "parameters": {"f16": 108, "f32": 4}}
    assert "108 f16, 4 f32" in cli("inspect", path).stdout


def test_without_the_onnx_package_the_description_is_still_shown(cli, artefact: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    result = cli("inspect", artefact)
    assert result.exit_code == 0
    assert "graph" in result.stdout and "fcn-deploy[export]" in result.stdout
    assert "blue, green, red" in result.stdout


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("none.onnx", None, "does not exist"),
        ("empty.onnx", b"", "is empty"),
        ("cut.onnx", "half", "not a complete ONNX file"),
        ("noise.onnx", b"\xff" * 200, "not a complete ONNX file"),
        ("model.pth", b"x", "is a checkpoint"),
        ("model.tflite", b"x", "is no artefact"),
        ("noise.safetensors", b"\xff" * 200, "not a complete safetensors file"),
        ("bare.onnx", "bare", "carries no description"),
    ],
)
def test_wrong_files(fails, artefact: Path, tmp_path: Path, name: str, content, part: str) -> None:
    path = tmp_path / name
    if content == "half":
        content = artefact.read_bytes()[: artefact.stat().st_size // 2]
    elif content == "bare":
        model = onnx.load(str(artefact))
        del model.metadata_props[:]
        content = model.SerializeToString()
    if content is not None:
        path.write_bytes(content)
    told = fails(2, "inspect", path, "--json")
    assert part in told
    assert name in told
