"""export: what the options make of a checkpoint, and calls that cannot be.

Writing ONNX takes seconds, so it is done once, in test_road.py. Here it is safetensors, which go
through everything but the exporter.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.classes import BUILTIN_CLASSES, default_palette, voc_palette
from fcn_deploy.errors import ExportError
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.spec import CAFFE_MEAN_BGR, Architecture, ModelSpec

torch = pytest.importorskip("torch")

TINY = ("--weights", "random", "--variant", "fcn8s-lite", "--width", 2, "--fc-channels", 4)


@pytest.fixture
def make(cli, tmp_path: Path):
    """``make("--num-classes", 5)``: the description of what a tiny random export wrote."""

    def call(*words: object, base: tuple[object, ...] = TINY) -> ModelSpec:
        path = tmp_path / "made.safetensors"
        result = cli("export", *base, *words, "-o", path)
        assert result.exit_code == 0, result.output
        return read_spec(path)

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A bare state_dict of eleven classes; it does not say its variant."""
    from fcn_deploy.model.checkpoints.random import random_model

    model, _ = random_model(11, "fcn8s-same", width=2, fc_channels=4, seed=5)
    path = tmp_path / "mine.pth"
    torch.save(model.state_dict(), path)
    return path


def test_options_become_the_description(make, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("road  10 20 30\ntraffic light 255 0 0\n\nsky 0 0 255\n", encoding="utf-8")
    spec = make(
        *("--classes", names, "--ignore-label", 7, "--mean", "1,2,3", "--std", "4,5,6", "--color", "rgb"),
        *("--outputs", "logits,labels,confidence", "--max-size", "100x200", "--learned-upscore"),
    )
    assert spec.classes == ("road", "traffic light", "sky")
    assert spec.palette == ((10, 20, 30), (255, 0, 0), (0, 0, 255))
    assert (spec.ignore_label, spec.mean, spec.std) == (7, (1, 2, 3), (4, 5, 6))
    assert (spec.color_order, spec.outputs) == ("rgb", ("labels", "confidence", "logits"))
    assert (spec.max_height, spec.max_width) == (100, 200)
    options = {"width": 2, "fc_channels": 4, "learned_upscore": True}
    assert spec.architecture == Architecture("fcn8s-lite", options)


def test_what_is_not_stated_has_the_papers_values(make) -> None:
    spec = make()
    assert (spec.num_classes, spec.classes[0]) == (21, "class 0")
    assert spec.palette == voc_palette(21)
    assert (spec.mean, spec.color_order, spec.ignore_label) == (CAFFE_MEAN_BGR, "bgr", 255)
    assert "labels mean nothing" in spec.note
    assert spec.provenance == ({"kind": "random", "name": "random (seed 0)", "sha256": None},)


@pytest.mark.parametrize("name", BUILTIN_CLASSES)
def test_a_built_in_set_brings_names_colours_and_the_ignore_label(make, name: str) -> None:
    spec = make("--classes", name)
    assert (spec.classes, spec.palette, spec.ignore_label) == BUILTIN_CLASSES[name]
    assert make("--classes", name, "--ignore-label", 200).ignore_label == 200


def test_a_checkpoint_with_averaged_weights_says_which_were_taken(
    cli, checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    average = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "ema": average}, checkpoint)
    words = ("--weights", checkpoint, "--variant", "fcn8s-same", "-o", tmp_path / "m.safetensors")
    told = "took the weights under 'model'; 'ema' holds another set of weights, which was not used"
    assert f"assumed: {told}" in cli("export", *words).stdout


def test_a_seed_is_another_model(make, tmp_path: Path) -> None:
    from fcn_deploy.model.checkpoints.native import load_safetensors

    def weights(*seed: object) -> list[float]:
        make("--num-classes", 2, *seed)
        return load_safetensors(tmp_path / "made.safetensors")[0].conv1_1.weight.flatten().tolist()

    assert weights() == weights("--seed", 0) != weights("--seed", 1)


def test_what_was_assumed_of_a_checkpoint_is_said(cli, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = cli("export", "--weights", checkpoint, "--variant", "fcn8s-same", "-o", out)
    assert result.exit_code == 0, result.output
    assert "assumed: variant fcn8s-same, as given; nothing in the file confirms it" in result.stdout
    assert "assumed: 11 classes with numbers for names (--classes)" in result.stdout
    assert "assumed: frames minus 104.007" in result.stdout
    assert f"Next: fcn-deploy run {out}" in result.stdout
    spec = read_spec(out)
    assert (spec.palette, spec.ignore_label) == (default_palette(11), 255)
    assert spec.provenance[0]["name"] == "mine.pth"


def test_what_was_stated_is_not_called_assumed(cli, checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghijk"))
    result = cli(
        *("export", "--weights", checkpoint, "--variant", "fcn8s-same", "--classes", names),
        *("--mean", "0,0,0", "--std", "1,1,1", "-o", tmp_path / "m.safetensors"),
    )
    assert result.stdout.count("assumed:") == 1  # the variant, which nothing in the file confirms


def test_weights_of_rgb_frames_are_turned_and_remembered(cli, checkpoint: Path, tmp_path: Path) -> None:
    from fcn_deploy.model.checkpoints.native import load_safetensors

    out = tmp_path / "m.safetensors"
    words = ("--weights", checkpoint, "--variant", "fcn8s-same", "--trained-on", "rgb", "-o", out)
    assert cli("export", *words).exit_code == 0
    turned = load_safetensors(out)[0].conv1_1.weight
    assert torch.equal(turned, torch.load(checkpoint, weights_only=True)["conv1_1.weight"].flip(1))
    assert read_spec(out).provenance[0]["trained_on"] == "rgb"


def test_an_artefact_exported_again_keeps_its_description_and_lengthens_the_chain(
    make, tmp_path: Path
) -> None:
    first = make("--num-classes", 3, "--mean", "9,9,9")
    parent = (tmp_path / "made.safetensors").rename(tmp_path / "parent.safetensors")
    again = make("--precision", "fp16", base=("--weights", parent))
    assert (again.classes, again.mean, again.precision) == (first.classes, first.mean, "fp16")
    assert [link["kind"] for link in again.provenance] == ["safetensors", "random"]


def test_json_is_pure(cli, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = cli("export", *TINY, "--num-classes", 2, "-o", out, "--json")
    report = json.loads(result.stdout)
    assert (report["file"], report["bytes"]) == (str(out), out.stat().st_size)
    assert report["spec"]["classes"] == ["class 0", "class 1"]
    assert report["assumed"] == []


def test_calibration_frames_reach_the_exporter_in_the_models_colour_order(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.export import fp16

    seen: dict[str, object] = {}

    def check(graph, spec, batches, source, *, keep_fp32):
        seen.update(frames=list(batches), source=source, keep=keep_fp32)
        raise ExportError("far enough")

    monkeypatch.setattr(fp16, "check_fp16_range", check)
    (tmp_path / "calib").mkdir()
    picture = Image.new("RGB", (6, 4), (250, 0, 10))
    picture.paste((0, 90, 200), (3, 0, 6, 4))  # one colour all over is refused
    picture.save(tmp_path / "calib" / "a.png")
    result = cli(
        *("export", *TINY, "--color", "rgb", "--precision", "fp16", "--calib", tmp_path / "calib"),
        *("-o", tmp_path / "m.onnx", "--keep-fp32"),
    )
    assert (result.exit_code, "far enough" in result.output) == (1, True), result.output
    (frame,) = seen["frames"]
    assert (frame.shape, frame.dtype, frame[0, 0, 0].tolist()) == ((1, 4, 6, 3), np.uint8, [250, 0, 10])
    assert (seen["source"], seen["keep"]) == ("calib", True)


RANDOM = ("--weights", "random", "-o", "{tmp}/m.onnx")
KNOWN = ("--weights", "{ckpt}", "-o", "{tmp}/m.onnx")
SAME = (*KNOWN, "--variant", "fcn8s-same")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--weights", "random", "-o", "{tmp}/m.pt"), "must end in .onnx or .pt2 or .safetensors"),
        (("--weights", "random", "-o", "{tmp}/none/m.onnx"), "create it first"),
        (("--weights", "random", "-o", "{tmp}/folder.onnx"), "is a folder"),
        (KNOWN, "give --variant, one of fcn8s, "),
        ((*KNOWN, "--width", "4"), "--width is for --weights random"),
        ((*KNOWN, "--seed", "4"), "--seed is for --weights random"),
        (("--weights", "none.pth", "-o", "{tmp}/m.onnx"), "none.pth does not exist"),
        (
            ("--weights", "{tmp}/cut.pth", "-o", "{tmp}/m.onnx"),
            "cut.pth is not a complete PyTorch checkpoint",
        ),
        (("--weights", "{tmp}/m.safetensors", "-o", "{tmp}/m.safetensors"), "is the checkpoint itself"),
        ((*RANDOM, "--num-classes", "1"), "from 2 to 255"),
        ((*RANDOM, "--num-classes", "256"), "from 2 to 255"),
        ((*RANDOM, "--mean", "1,2"), "expected three numbers"),
        ((*RANDOM, "--std", "1,0,1", *map(str, TINY[2:])), "above 0"),
        ((*RANDOM, "--outputs", "labels,mask"), "--outputs mask"),
        ((*RANDOM, "--max-size", "0x9"), "expected height x width"),
        ((*RANDOM, "--calib", "{tmp}"), "--calib is for --precision fp16"),
        ((*RANDOM, "--keep-fp32"), "--keep-fp32 is for --precision fp16 and an .onnx file"),
        (
            ("--weights", "random", "-o", "{tmp}/m.safetensors", "--precision", "fp16", "--keep-fp32"),
            "--keep-fp32 is for --precision fp16 and an .onnx file",
        ),
        (
            (*RANDOM, *map(str, TINY[2:]), "--precision", "fp16", "--calib", "{tmp}/empty"),
            "holds no image",
        ),
        ((*RANDOM, "--classes", "none.txt"), "none.txt does not exist"),
        ((*RANDOM, "--classes", "{tmp}/mixed.txt"), "mixed.txt, line 2: expected NAME as in line 1"),
        (
            (*RANDOM, "--classes", "camvid", "--num-classes", "4"),
            "camvid names 11 classes, and --num-classes",
        ),
        ((*RANDOM, "--num-classes", "4", "--classes", "{tmp}/two.txt"), "names 2 classes, and --num-classes"),
        ((*SAME, "--classes", "{tmp}/two.txt"), "has 11 classes"),
        ((*SAME, "--num-classes", "5"), "has 11 classes, and --num-classes says 5"),
    ],
)
def test_wrong_calls(fails, checkpoint: Path, tmp_path: Path, leftovers, words, part: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "mixed.txt").write_text("a\nb 1 2 3\n")
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:1000])
    told = fails(2, "export", *(word.format(tmp=tmp_path, ckpt=checkpoint) for word in words))
    assert part in told
    assert not (tmp_path / "m.onnx").exists()
    assert not leftovers()


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "m.onnx"),
        ("--weights", "random"),
        ("--weights", "random", "-o", "m.onnx", "--variant", "fcn32s"),
        ("--weights", "random", "-o", "m.onnx", "--precision", "int8"),
        ("--weights", "random", "-o", "m.onnx", "--color", "hsv"),
        ("--weights", "random", "-o", "m.onnx", "--ignore-label", "300"),
    ],
    ids=" ".join,
)
def test_calls_that_cannot_be_parsed(cli, words: tuple[str, ...]) -> None:
    assert cli("export", *words).exit_code == 2


def test_a_failed_export_leaves_the_old_file(fails, checkpoint: Path, tmp_path: Path, leftovers) -> None:
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"the old one")
    state = torch.load(checkpoint, weights_only=True)
    state["conv1_1.weight"][0, 0, 0, 0] = 1e6  # beyond fp16
    torch.save(state, checkpoint)
    words = ("--weights", checkpoint, "--variant", "fcn8s-same", "--precision", "fp16", "-o", out)
    assert "conv1_1.weight" in fails(2, "export", *words)
    assert out.read_bytes() == b"the old one"
    assert not leftovers()


# Networks of the user's own


@pytest.fixture
def factory(nets) -> str:
    return f"{nets.__file__}:plain"


def test_a_module_of_the_users_own_becomes_a_program(cli, factory: str, tmp_path: Path, nets) -> None:
    out = tmp_path / "own.pt2"
    torch.save({"state_dict": torch.nn.DataParallel(nets.Plain(seed=7)).state_dict()}, tmp_path / "w.ckpt")
    result = cli(
        *("export", "--model", factory, "--weights", tmp_path / "w.ckpt", "--max-size", "64x64"),
        *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--scale", "1/255", "-o", out),
    )
    assert result.exit_code == 0, result.output
    assert "assumed: took 'module.' off the names of all weights" in result.stdout
    assert "assumed: trained on R, G, B (--trained-on)" in result.stdout
    assert "parity" in result.stdout and "against Plain" in result.stdout
    spec = read_spec(out)
    assert spec.mean == pytest.approx((103.53, 116.28, 123.675))
    assert spec.provenance[0]["name"] == "w.ckpt in user_modules.py:plain"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.pt2", "own.pt2.json", "w.ckpt"]
    shown = cli("inspect", out)
    parameters = sum(weight.numel() for weight in nets.Plain().parameters())
    assert f"{parameters:,} f32" in shown.stdout


def test_what_a_users_code_prints_is_not_in_the_json(cli, nets, tmp_path: Path) -> None:
    out = tmp_path / "own.pt2"
    call = ("export", "--model", f"{nets.__file__}:Talkative", "--max-size", "8x8", "-o", out, "--json")
    result = cli(*call)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["file"] == str(out)
    assert "frames of (1, 3, 192, 192)" in result.stderr


MODEL = ("--model", "{nets}:{name}", "-o", "{tmp}/m.onnx")


@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("plain", ("-o", "{tmp}/m.onnx"), "give --weights, or --model for a network of your own"),
        ("plain", ("--model", "{tmp}/none.py:f", "-o", "{tmp}/m.onnx"), "there is no file"),
        ("plain", ("--model", "{nets}", "-o", "{tmp}/m.onnx"), "expected package.module:function or file.py"),
        ("nothing", MODEL, "there is no function nothing in"),
        ("UNet", MODEL, "give --size-multiple 32, which pads them in the graph"),
        ("UNet", (*MODEL, "--size-multiple", "16"), "give --size-multiple 32"),
        ("Strided", MODEL, "give --logits-stride 4"),
        ("Strided", (*MODEL, "--logits-stride", "8"), "give --logits-stride 4"),
        ("Patches", MODEL, "give --size-multiple 14"),
        ("Returning", MODEL, "a factory is called without arguments (missing a required argument: 'form')"),
        ("plain", (*MODEL, "--align-corners"), "align_corners is about resizing logits"),
        (
            "plain",
            (*MODEL, "--threshold", "0.5"),
            "threshold is for one channel of logits, and Plain gives 4",
        ),
        ("plain", (*MODEL, "--threshold", "2"), "between 0 and 1"),
        ("plain", (*MODEL, "--classes", "camvid"), "has 4 classes and 11 names were given"),
        ("plain", (*MODEL, "--num-classes", "5"), "has 4 classes, and --num-classes says 5"),
        ("plain", (*MODEL, "--variant", "fcn8s"), "--variant is for FCN-8s"),
        ("plain", (*MODEL, "--weights", "random"), "--model is for checkpoint files"),
        ("plain", (*MODEL, "--weights", "bundled"), "bundled weights are those of fcn8s-lite"),
        ("plain", (*MODEL, "--weights", "{ckpt}"), "mine.pth does not fit Plain: "),
        ("plain", (*MODEL, "--weights", "{tmp}/none.pth"), "none.pth does not exist"),
        ("plain", (*MODEL, "--mean", "0.485,0.456,0.406"), "add --scale 1/255"),
        ("plain", (*MODEL, "--scale", "1/0"), "expected a number above 0 or a fraction"),
        ("plain", (*MODEL, "--precision", "fp16", "-o", "{tmp}/m.pt2"), ".pt2 programs are fp32"),
        ("plain", (*MODEL, "-o", "{tmp}/m.safetensors"), "is built by code of your own"),
        ("plain", (*RANDOM, "--size-multiple", "8"), "--size-multiple is for modules of your own"),
        ("plain", (*SAME, "--logits-stride", "8"), "--logits-stride is for modules of your own"),
        ("plain", (*SAME, "--key", "ema"), "holds no weights under 'ema'"),
    ],
)
def test_wrong_calls_about_a_module(
    fails, checkpoint: Path, nets, tmp_path: Path, leftovers, name: str, words, part: str
) -> None:
    places = {"tmp": tmp_path, "ckpt": checkpoint, "nets": nets.__file__, "name": name}
    told = fails(2, "export", *(word.format(**places) for word in words))
    assert part in told
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pth"]
    assert not leftovers()


def test_a_script_that_reads_our_command_line(fails, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--lr'])\n")
    told = fails(2, "export", "--model", f"{tmp_path}/train.py:make", "-o", tmp_path / "m.onnx")
    assert 'put what it runs as a script under: if __name__ == "__main__"' in told
