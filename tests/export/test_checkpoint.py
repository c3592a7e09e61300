"""``export_model``: everything that the command line makes, from Python."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from fcn_deploy import ModelSpec, export_model
from fcn_deploy.errors import UsageError
from fcn_deploy.export.graph.files import identity
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.runtimes.artefact import read_spec

TINY = {"variant": "fcn8s-lite", "width": 2, "fc_channels": 4}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A bare state_dict, trained as ``fcn8s``; it does not say so."""
    model, _ = random_model(3, "fcn8s", width=2, fc_channels=4, seed=5)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def test_what_is_written_is_what_is_returned(traced_once, tmp_path: Path) -> None:
    steps: list[str] = []
    with traced_once():
        result = export_model(
            "random",
            tmp_path / "m.onnx",
            **TINY,
            num_classes=3,
            classes=["road", "sky", "rest"],
            mean=(1.0, 2.0, 3.0),
            max_size=(600, 700),
            note="a test",
            progress=steps.append,
        )
    spec = read_spec(result.path)
    assert result.spec == spec
    assert (spec.classes, spec.mean, spec.note) == (("road", "sky", "rest"), (1.0, 2.0, 3.0), "a test")
    assert (spec.max_height, spec.max_width) == (600, 700)
    assert spec.describes(identity(onnx.load(result.path))) is True
    assert (result.bytes, result.assumptions) == (result.path.stat().st_size, ())
    assert "reading the weights" in steps and any(step.startswith("checking parity") for step in steps)


def test_the_result_shows_itself_and_turns_into_json(tmp_path: Path) -> None:
    result = export_model("random", tmp_path / "m.safetensors", **TINY)
    shown = repr(result).splitlines()
    assert shown[0] == "ExportResult"
    assert "m.safetensors" in shown[1]
    assert any(line.split()[:2] == ["precision", "fp32"] for line in shown)
    found = result.to_dict()
    assert (found["file"], found["bytes"], found["assumed"]) == (str(result.path), result.bytes, [])
    assert ModelSpec.from_json(json.dumps(found["spec"])) == result.spec


def test_a_network_in_memory(traced_once, tmp_path: Path) -> None:
    model, _ = random_model(4, "fcn8s-lite", width=2, fc_channels=4)
    with traced_once():
        result = export_model(model, tmp_path / "m.onnx", classes=("a", "b", "c", "d"), color_order="rgb")
    assert (result.spec.classes, result.spec.color_order) == (("a", "b", "c", "d"), "rgb")
    assert result.spec.provenance[0]["kind"] == "module"


def test_parity_is_against_the_variant_as_stated_and_says_so(
    traced_once, checkpoint: Path, tmp_path: Path
) -> None:
    """The weights were trained as fcn8s; nothing in the file tells, so the line may claim no more."""
    with traced_once():
        result = export_model(checkpoint, tmp_path / "m.onnx", variant="fcn8s-same")
    assert result.spec.reference is not None
    assert (result.spec.reference.name, result.spec.reference.known_by) == ("fcn8s-same", "stated")
    line = next(value for name, value in result.summary() if name == "parity")
    assert "sizes against fcn8s-same as stated: " in line
    assert any("nothing in the file confirms it" in sentence for sentence in result.assumptions)


def test_what_was_stated_once_stays_stated_in_its_children(
    traced_once, checkpoint: Path, tmp_path: Path
) -> None:
    export_model(checkpoint, tmp_path / "m.safetensors", variant="fcn8s-same")
    with traced_once():
        again = export_model(tmp_path / "m.safetensors", tmp_path / "m.onnx")
    assert str(again.spec.reference) == "fcn8s-same as stated"
    assert again.spec.evidence["parity"]["network"] == "fcn8s-same as stated"


def test_no_names_are_guessed_and_built_in_ones_bring_the_rest(checkpoint: Path, tmp_path: Path) -> None:
    model, _ = random_model(11, "fcn8s-lite", width=2, fc_channels=4)
    torch.save(model.state_dict(), tmp_path / "eleven.pth")
    bare = export_model(tmp_path / "eleven.pth", tmp_path / "a.safetensors", variant="fcn8s-lite")
    assert (bare.spec.classes[0], bare.spec.ignore_label) == ("class 0", 255)
    named = export_model(
        tmp_path / "eleven.pth", tmp_path / "b.safetensors", variant="fcn8s-lite", classes="camvid"
    )
    assert (named.spec.classes[0], named.spec.ignore_label) == ("sky", 11)
    stated = export_model(
        tmp_path / "eleven.pth",
        tmp_path / "c.safetensors",
        variant="fcn8s-lite",
        classes="camvid",
        ignore_label=200,
    )
    assert stated.spec.ignore_label == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "m.pb"}, r"m\.pb: the name must end in \.onnx or \.pt2 or \.safetensors"),
        ({"path": "none/m.onnx"}, r"none does not exist; create it first"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"max_size": 512}, "max_size must be a height and a width"),
        ({"trained_on": "gbr"}, "trained_on must be bgr or rgb"),
        ({"trained_on": "rgb"}, "--trained-on is for checkpoint files"),
        ({"checkpoint": None}, "not a NoneType"),
        ({"checkpoint": torch.zeros(3)}, "not a Tensor"),
        ({"precision": "int8"}, "INT8 is made by quantize"),
        ({"outputs": ["depth"]}, "depth: choose from labels"),
        ({"calib": "frames"}, "--calib is for --precision fp16"),
        ({"num_classes": 4, "classes": ["a", "b"]}, "names 2 classes, and --num-classes says 4"),
        ({"classes": "nowhere.txt"}, r"nowhere\.txt does not exist"),
        ({"checkpoint": "bundled", "seed": 1}, "--seed is for --weights random"),
    ],
)
def test_wrong_use_is_one_sentence(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    call = {"checkpoint": "random", "path": "m.onnx", **changes}
    sizes = TINY if call["checkpoint"] == "random" else {}
    where = tmp_path / str(call.pop("path"))
    with pytest.raises(UsageError, match=message):
        export_model(call.pop("checkpoint"), where, **{**sizes, **call})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argument",
    [{"trained_on": "rgb"}, {"variant": "fcn8s"}, {"num_classes": 4}, {"learned_upscore": True}, {"seed": 0}],
    ids=str,
)
def test_what_a_network_in_memory_has_itself_is_refused(argument: dict[str, object], tmp_path: Path) -> None:
    model, _ = random_model(4, "fcn8s-lite", width=2, fc_channels=4)
    with pytest.raises(UsageError, match="leave it out"):
        export_model(model, tmp_path / "m.safetensors", **argument)
    assert list(tmp_path.iterdir()) == []


def test_one_output_need_not_be_a_list(tmp_path: Path) -> None:
    result = export_model("random", tmp_path / "m.safetensors", **TINY, outputs="confidence")
    assert result.spec.outputs == ("labels", "confidence")


def test_lists_and_tuples_are_the_same(tmp_path: Path) -> None:
    result = export_model("random", tmp_path / "m.safetensors", **TINY, mean=[1, 2, 3])
    assert result.spec == read_spec(result.path)
