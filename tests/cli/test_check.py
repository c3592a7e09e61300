"""check: figures, JSON and a picture; exit codes; a planted exchange of red and blue."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.spec import METADATA_KEY

pytest.importorskip("onnxruntime")

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 24, 33, 3), np.uint8)


def answers(folder: Path, labels: np.ndarray, **more: object) -> Path:
    path = folder / "answers.npz"
    np.savez(path, **{"frames": FRAMES, "labels": labels, "color_order": "bgr", **more})
    return path


@pytest.fixture
def artefact(artefact: Path, tmp_path: Path) -> Path:
    """The artefact of the brightest channel, described without a mean, as its graph subtracts none."""
    model = onnx.load(str(artefact))
    spec = read_spec(artefact).replace(mean=(0.0, 0.0, 0.0))
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, str(tmp_path / "brightest.onnx"))
    return tmp_path / "brightest.onnx"


@pytest.fixture
def right(tmp_path: Path) -> Path:
    """What the artefact of the brightest channel answers."""
    return answers(tmp_path, FRAMES.argmax(3), note="the brightest channel")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """What it answers with red and blue exchanged."""
    return answers(tmp_path, FRAMES[..., ::-1].argmax(3))


def test_an_artefact_that_answers_alike_passes(cli, artefact: Path, right: Path) -> None:
    result = cli("check", artefact, right)
    assert result.exit_code == 0, result.output
    assert "100.0000% agree" in result.stdout and "(the brightest channel)" in result.stdout
    assert f"Passed: {artefact} answers as the original of answers.npz does" in result.stdout


def test_one_that_does_not_ends_with_1_and_the_repair(
    cli, artefact: Path, wrong: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "worst.png"
    result = cli("check", artefact, wrong, "--picture", picture)
    assert result.exit_code == 1
    assert "blue for red" in result.stdout and f"Wrote {picture}" in result.stdout
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"Error: {artefact} does not answer as the original of answers.npz: frames[")
    assert "the original exchanges red and blue" in last and "--trained-on rgb" in last
    with Image.open(picture) as drawn:
        assert drawn.width >= 4 * 33


def test_json_holds_all_of_it(cli, artefact: Path, wrong: Path) -> None:
    result = cli("check", artefact, wrong, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["passed"] is False and told["frames"] == 2 and told["artefact"] == str(artefact)
    (mistake,) = told["mistakes"]
    assert (mistake["kinds"], mistake["repair"]) == (["color order"], "--trained-on rgb")


def test_limits_and_a_backend_can_be_given(cli, artefact: Path, wrong: Path) -> None:
    result = cli("check", artefact, wrong, "--min-agreement", 0.1, "--backend", "onnxruntime", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "onnxruntime on cpu" in result.stdout and "at least 10.00% needed" in result.stdout


def test_other_names_of_classes_are_a_warning(cli, artefact: Path, tmp_path: Path) -> None:
    path = answers(tmp_path, FRAMES.argmax(3), classes=["blue", "lime", "red"])
    assert "Warning: class 1 is 'lime' in answers.npz" in cli("check", artefact, path).stderr


def test_wrong_use_is_one_sentence(fails, artefact: Path, right: Path, tmp_path: Path) -> None:
    assert "does not exist" in fails(2, "check", artefact, tmp_path / "none.npz")
    assert "must end in .png" in fails(2, "check", artefact, right, "--picture", tmp_path / "worst.txt")
    text = tmp_path / "text.npz"
    text.write_text("text")
    assert "is no answers file" in fails(2, "check", artefact, text)
    strange = answers(tmp_path, FRAMES.argmax(3) + 1)
    assert "the original answered class 3" in fails(2, "check", artefact, strange)
