"""wrap, and what follows it: a file of one fixed size goes the whole road."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.runtimes.artefact import read_spec

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

import foreign_files as exporters

UNSCALED = ("--scale", "1/255", "--mean", "0,0,0", "--std", "1,1,1")
IMAGENET = ("--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


@pytest.fixture(scope="module")
def folder(cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fixed.onnx, wrapped of a file of 64x96 frames, and frames of 64x96 and 72x96."""
    made = tmp_path_factory.mktemp("wrap")
    original = exporters.ultralytics(made / "original.onnx", classes=12)
    for words in (
        ("wrap", original, *UNSCALED, "-o", made / "fixed.onnx"),
        ("clip", made / "fits", "--frames", 8, "--size", "64x96"),
        ("clip", made / "other", "--frames", 8, "--size", "72x96"),
    ):
        result = cli(*words)
        assert result.exit_code == 0, result.output
    return made


def test_options_become_the_description(cli, tmp_path: Path) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    names = tmp_path / "names.txt"
    names.write_text("road\nsky\ncar\ntree\nrest\n", encoding="utf-8")
    path = tmp_path / "made.onnx"
    result = cli(
        *("wrap", original, "-o", path, "--mean", "10,20,30", "--std", "4,5,6", "--scale", "0.5"),
        *("--trained-on", "bgr", "--color", "rgb", "--classes", names, "--ignore-label", 7),
        *("--outputs", "confidence, logits", "--output-name", "aux", "--logits-stride", 4),
        *("--align-corners", "--size-multiple", 8, "--max-size", "512x600", "--note", "a try", "--json"),
    )
    assert result.exit_code == 0, result.output
    spec = read_spec(path)
    assert (spec.mean, spec.std) == ((20, 40, 60), (8, 10, 12))
    assert (spec.color_order, spec.classes[0], spec.ignore_label) == ("rgb", "road", 7)
    assert spec.outputs == ("labels", "confidence", "logits")
    assert (spec.size_multiple, spec.max_height, spec.max_width, spec.note) == (8, 512, 600, "a try")
    assert spec.architecture.options["align_corners"] is True
    printed = json.loads(result.stdout)
    assert printed["spec"]["architecture"]["options"]["logits_stride"] == 4
    assert printed["assumed"] == []


def test_what_was_made_and_assumed_is_told(cli, tmp_path: Path) -> None:
    original = exporters.smp(tmp_path / "original.onnx")
    path = tmp_path / "made.onnx"
    result = cli("wrap", original, "-o", path, *IMAGENET, "--size-multiple", 4, "--threshold", 0.4)
    assert result.exit_code == 0, result.output
    assert "minus 103.53, 116.28, 123.675, divided by 57.375, 57.12, 58.395 (B, G, R)" in result.stdout
    assert "padded inside to multiples of 4" in result.stdout
    assert "class 1 above 0.4" in result.stdout
    assert "assumed: output, one channel of logits, is class 1" in result.stdout
    assert f"Next: fcn-deploy run {path}" in result.stdout


def test_a_fixed_size_is_shown(cli, folder: Path) -> None:
    result = cli("inspect", folder / "fixed.onnx")
    assert "64x96 only, 1 at a time" in result.stdout
    assert "1. original.onnx  sha256" in result.stdout
    assert "digest     matches" in result.stdout


def test_frames_of_its_size_are_labelled_and_others_refused(cli, fails, folder: Path, tmp_path: Path) -> None:
    result = cli("run", folder / "fixed.onnx", folder / "fits" / "images", "--masks", tmp_path / "labels")
    assert result.exit_code == 0, result.output
    written = sorted((tmp_path / "labels").glob("*.png"))
    assert len(written) == 8
    frame = np.asarray(Image.open(folder / "fits" / "images" / written[0].name))[None]
    stats = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 1 / 255}
    expected = exporters.answers(folder / "original.onnx", frame[..., ::-1], **stats)[0]
    assert (np.asarray(Image.open(written[0])) == expected).mean() > 0.999
    told = fails(2, "run", folder / "fixed.onnx", folder / "other" / "images", "--masks", tmp_path / "no")
    assert "takes frames of 64x96 only, found 72x96" in told


def test_a_fixed_file_is_scored_and_measured(cli, fails, folder: Path) -> None:
    result = cli("eval", folder / "fixed.onnx", "--data", folder / "fits")
    assert result.exit_code == 0, result.output
    told = fails(2, "bench", folder / "fixed.onnx")
    assert "takes frames of 64x96 only, not 360x480; measure it with --size 64x96" in told


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_a_fixed_file_becomes_int8(cli, fails, folder: Path, tmp_path: Path, target: str) -> None:
    words = ("quantize", folder / "fixed.onnx", "--target", target, "-o", tmp_path / "int8.onnx", "--calib")
    assert "quantize does it with --size 64x96" in fails(2, *words, folder / "other" / "images")
    for frames in (("fits",), ("other", "--size", "64x96")):
        result = cli(*words, folder / frames[0] / "images", *frames[1:])
        assert result.exit_code == 0, result.output
        assert "is far from the model's mean" not in result.stderr, "a mean of 0 says nothing of colours"
    spec = read_spec(tmp_path / "int8.onnx")
    assert spec.fixed_shape == (1, 64, 96)
    assert spec.evidence["quantization"]["agreement_with_fp32"]["label_agreement"] > 0.9
    assert spec.provenance[-1]["kind"] == "original"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", "1/0"), r"--scale 1/0: expected a number above 0 or a fraction, such as 1/255"),
        (("--scale", "x"), r"--scale x: expected a number"),
        (("--mean", "1,2"), r"--mean 1,2: expected three numbers, one a channel"),
        (("--max-size", "10"), r"--max-size 10: expected height x width"),
        (("--classes", "no.txt"), "no.txt does not exist"),
        (("--mean", "0.485,0.456,0.406", "--scale", "1"), "Wrote"),
    ],
)
def test_calls_that_cannot_be(cli, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    original = exporters.ultralytics(tmp_path / "original.onnx")
    result = cli("wrap", original, "-o", tmp_path / "made.onnx", *UNSCALED, *words)
    if message == "Wrote":
        assert result.exit_code == 0, "scale 1 says that small means are meant"
        return
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "made.onnx").exists()


def test_mean_and_std_must_be_stated(cli, tmp_path: Path) -> None:
    original = exporters.ultralytics(tmp_path / "original.onnx")
    result = cli("wrap", original, "-o", tmp_path / "made.onnx")
    assert result.exit_code == 2
    assert "--mean" in result.stderr
