"""``export_model``: everything that the command line makes, from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from fcn_deploy import ModelSpec, export_model
from fcn_deploy.errors import FcnDeployError, UsageError
from fcn_deploy.export.graph.files import identity
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.spec import Architecture

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


# Modules of the user's own. What they become is decided before the exporter, which is left out here


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``described(module, mean=...)``: the result of an export that writes a file without a program in it."""

    def export_program(network: Any, spec: ModelSpec, path: Path, *, progress: Any) -> ModelSpec:
        path.write_bytes(b"a program")
        return spec

    monkeypatch.setattr("fcn_deploy.export.program.export_program", export_program)
    return lambda checkpoint, **arguments: export_model(checkpoint, tmp_path / "m.pt2", **arguments)


def test_a_module_without_a_word_about_it(described, nets) -> None:
    result = described(nets.Plain())
    spec = result.spec
    assert (spec.architecture.name, spec.num_classes, spec.classes[0]) == ("Plain", 4, "class 0")
    assert spec.mean == pytest.approx((103.53, 116.28, 123.675))
    assert (spec.color_order, spec.size_multiple, spec.threshold, spec.min_height) == ("bgr", 1, None, 1)
    assert spec.provenance == (
        {"kind": "module", "name": "Plain in memory", "sha256": None, "trained_on": "rgb"},
    )
    assert [sentence.partition(" ")[0] for sentence in result.assumptions] == [
        "trained",
        "4",
        "frames",
        "and",
    ]
    assert any("ImageNet's mean (--mean)" in sentence for sentence in result.assumptions)


def test_what_was_stated_of_a_module_is_not_called_assumed(described, nets) -> None:
    stated = {"mean": (1, 2, 3), "std": (4, 5, 6), "trained_on": "rgb", "classes": tuple("abcd")}
    result = described(nets.Plain(), **stated)
    assert result.assumptions == ()
    assert (result.spec.mean, result.spec.std) == ((3, 2, 1), (6, 5, 4)), "B, G, R"


@pytest.mark.parametrize(
    ("arguments", "mean", "std"),
    [
        ({"scale": 1 / 255}, (0, 0, 0), (255, 255, 255)),
        ({"scale": 1 / 255, "mean": (0.5, 0.4, 0.3)}, (76.5, 102, 127.5), (255, 255, 255)),
        ({"scale": 1 / 255, "std": (0.5, 0.4, 0.3)}, (0, 0, 0), (76.5, 102, 127.5)),
        ({"mean": (3, 2, 1), "trained_on": "bgr"}, (3, 2, 1), (57.375, 57.12, 58.395)),
    ],
    ids=str,
)
def test_how_frames_of_a_module_are_prepared(described, nets, arguments, mean, std) -> None:
    spec = described(nets.Plain(), **arguments).spec
    assert (spec.mean, spec.std) == (pytest.approx(mean), pytest.approx(std))


def test_imagenets_mean_in_the_other_order_is_said(described, nets) -> None:
    result = described(nets.Plain(), mean=(103.53, 116.28, 123.675))
    assert any("ImageNet's in the order bgr" in sentence for sentence in result.assumptions)


STARTING = ModelSpec(
    classes=("no", "yes"),
    palette=((1, 2, 3), (4, 5, 6)),
    architecture=Architecture("another", {"channel_order": "bgr"}),
    color_order="rgb",
    mean=(9.0, 8.0, 7.0),
    std=(6.0, 5.0, 4.0),
    ignore_label=77,
    max_height=800,
    max_width=900,
    min_height=20,
    min_width=30,
    fixed_shape=(1, 64, 64),
    threshold=0.3,
    size_multiple=8,
    stride=16,
    outputs=("labels", "confidence"),
    precision="int8",
    note="a note",
    evidence={"fp16_range": {"of": "another"}, "parity": {}},
    provenance=({"kind": "onnx", "name": "another.onnx", "sha256": "0" * 64},),
)


def test_a_starting_description_is_kept_but_for_what_is_another_artefacts(described, nets) -> None:
    result = described(nets.Plain(1), spec=STARTING)
    spec = result.spec
    kept = (
        *("classes", "palette", "color_order", "mean", "std", "ignore_label", "max_height", "max_width"),
        *("min_height", "min_width", "threshold", "size_multiple", "stride", "outputs", "note"),
    )
    assert {name: getattr(spec, name) for name in kept} == {name: getattr(STARTING, name) for name in kept}
    assert spec.architecture == Architecture("Plain", {"channel_order": "rgb"})
    assert spec.provenance == (
        {"kind": "module", "name": "Plain in memory", "sha256": None, "trained_on": "rgb"},
    )
    assert (spec.evidence, spec.fixed_shape) == ({}, (None, None, None))
    assert result.assumptions == ("trained on R, G, B (--trained-on)",)


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ({"classes": ["off", "on"]}, "classes", ("off", "on")),
        ({"mean": (1, 2, 3)}, "mean", (3, 2, 1)),
        ({"std": (1, 2, 3)}, "std", (3, 2, 1)),
        ({"color_order": "bgr"}, "color_order", "bgr"),
        ({"ignore_label": 5}, "ignore_label", 5),
        ({"max_size": (100, 200)}, "max_width", 200),
        ({"threshold": 0.6}, "threshold", 0.6),
        ({"size_multiple": 4}, "size_multiple", 4),
        ({"outputs": "logits"}, "outputs", ("labels", "logits")),
        ({"note": "mine"}, "note", "mine"),
    ],
    ids=str,
)
def test_an_argument_wins_over_the_starting_description(described, nets, argument, field: str, value) -> None:
    spec = described(nets.Plain(1), spec=STARTING, **argument).spec
    assert getattr(spec, field) == value
    others = {"classes", "mean", "note", "threshold"} - {field}
    assert all(getattr(spec, name) == getattr(STARTING, name) for name in others)


def test_other_names_bring_other_colours(described, nets) -> None:
    spec = described(nets.Plain(1), spec=STARTING, classes=["off", "on"]).spec
    assert spec.palette != STARTING.palette


def test_the_smallest_frame_is_that_of_the_module(described, nets) -> None:
    assert described(nets.Reflected()).spec.min_height == 16
    small = STARTING.replace(classes=tuple("abcd"), palette=(), threshold=None, min_height=2, size_multiple=1)
    spec = described(nets.Reflected(), spec=small).spec
    assert (spec.min_height, spec.min_width) == (16, 30)


def test_one_channel_is_background_and_foreground(described, nets) -> None:
    spec = described(nets.Plain(1)).spec
    assert (spec.classes, spec.threshold) == (("background", "foreground"), 0.5)


def test_the_callers_module_is_left_as_it_was(described, nets) -> None:
    module = nets.Plain().half().train()
    described(module)
    assert module.training and module.norm.training and module.stem.weight.dtype is torch.float16


def test_a_suffix_in_capitals_is_the_same_kind_of_file(described, nets, tmp_path: Path) -> None:
    export_model(nets.Plain(), tmp_path / "M.PT2")
    assert (tmp_path / "M.PT2").read_bytes() == b"a program"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "m.safetensors"}, "Plain is built by code of your own, which a .safetensors file does not"),
        ({"path": "m.pt2", "precision": "fp16"}, "programs are fp32; write an .onnx file for fp16"),
        ({"path": "m.pt2", "check_against": "a.npz"}, "--check-against is for an .onnx file"),
        ({"classes": ["a", "b"]}, "Plain in memory has 4 classes and 2 names were given; give one name for"),
        ({"threshold": 0.4}, "threshold is for one channel of logits, and Plain gives 4"),
        ({"threshold": "0.4"}, "threshold is a probability between 0 and 1"),
        ({"align_corners": True}, "give logits_stride too"),
        ({"logits_stride": 1}, "logits_stride must be a whole number of at least 2"),
        ({"size_multiple": 0}, "size_multiple must be a whole number of at least 1"),
        ({"size_multiple": 1.5}, "size_multiple must be a whole number"),
        ({"mean": (0.485, 0.456, 0.406)}, "is of frames of 0 to 1.*add --scale 1/255"),
        ({"scale": "1/255"}, "scale must be a number above 0"),
        ({"spec": {}}, "spec is a ModelSpec, not a dict"),
        ({"spec": STARTING}, "threshold is for one channel"),
        ({"key": "ema"}, "--key chooses weights in a checkpoint file"),
        ({"variant": "fcn8s"}, "--variant is for checkpoint files"),
        ({"model": "a.py:f"}, "a module was given twice"),
        ({"max_size": (8, 8), "spec": STARTING.replace(threshold=None), "classes": "voc"}, "21 names"),
        (
            {"max_size": (8, 8), "spec": STARTING.replace(threshold=None), "classes": [*"abcd"]},
            "min_height and min_width",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_use_of_a_module_is_one_sentence(nets, arguments, message: str, tmp_path: Path) -> None:
    call = {"path": "m.onnx", **arguments}
    with pytest.raises(FcnDeployError, match=message) as caught:
        export_model(nets.Plain(), tmp_path / str(call.pop("path")), **call)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
