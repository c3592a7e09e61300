"""eval: scores that numpy can check, problems by name, and calls that cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from fcn_deploy.spec import METADATA_KEY, ModelSpec

KEYS = {"artefact", "backend", "mean_iu", "pixel_accuracy", "mean_accuracy", "fw_iu", "iu_by_class"}


def scores(result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"]


def repaint(path: Path, change) -> None:
    """Change a label map in place."""
    labels = np.array(Image.open(path))
    change(labels)
    Image.fromarray(labels).save(path)


def test_a_model_without_mistakes_scores_one(cli, artefact: Path, labelled: Path) -> None:
    (found,) = scores(cli("eval", artefact, "--data", labelled, "--json", "-"))
    assert found.keys() >= KEYS
    assert (found["artefact"], found["backend"]) == (str(artefact), "onnxruntime")
    assert [found[key] for key in ("mean_iu", "pixel_accuracy", "mean_accuracy", "fw_iu")] == [1, 1, 1, 1]
    assert found["iu_by_class"] == {"blue": 1.0, "green": 1.0, "red": 1.0}


def test_mistakes_are_counted_as_the_paper_counts_them(cli, artefact: Path, labelled: Path) -> None:
    # In one of two frames everything that was red (a third) is said to be green in truth.
    repaint(labelled / "labels" / "a.png", lambda labels: np.place(labels, labels == 2, 1))
    (found,) = scores(cli("eval", artefact, "--data", labelled, "--json", "-"))
    assert found["pixel_accuracy"] == pytest.approx(5 / 6)
    assert found["iu_by_class"] == pytest.approx({"blue": 1, "green": 2 / 3, "red": 1 / 2})
    assert found["mean_iu"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_the_ignored_label_is_not_scored(cli, artefact: Path, labelled: Path) -> None:
    repaint(labelled / "labels" / "a.png", lambda labels: np.place(labels, labels == 2, 77))
    (found,) = scores(cli("eval", artefact, "--data", labelled, "--json", "-", "--ignore-label", 77))
    assert found["pixel_accuracy"] == 1
    assert found["problems"] == []


def test_artefacts_stand_side_by_side_in_the_order_given(
    cli, artefact: Path, sure_artefact: Path, labelled: Path
) -> None:
    out = labelled.with_name("scores.json")
    result = cli("eval", sure_artefact, artefact, "--data", labelled, "--json", out)
    assert result.exit_code == 0, result.output
    assert [one["artefact"] for one in json.loads(out.read_text())["results"]] == [
        str(sure_artefact),
        str(artefact),
    ]
    head = next(line for line in result.stdout.splitlines() if "sure.onnx" in line)
    assert head.index("sure.onnx (onnxruntime)") < head.index("brightest.onnx (onnxruntime)")
    assert "pixel accuracy" in result.stdout and "IU by class" in result.stdout
    assert out.read_text().count('"mean_iu"') == 2


def test_camvid_layout(cli, artefact: Path, labelled: Path) -> None:
    (labelled / "images").rename(labelled / "val")
    (labelled / "labels").rename(labelled / "valannot")
    (found,) = scores(cli("eval", artefact, "--data", labelled / "val", "--json", "-"))
    assert found["mean_iu"] == 1


def spoil(labelled: Path) -> None:
    """Four more frames, none of which can be scored."""
    images, labels = labelled / "images", labelled / "labels"
    for name in ("no_label", "size", "range", "broken"):
        Image.open(images / "a.png").save(images / f"{name}.png")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(labels / "size.png")
    Image.fromarray(np.full((24, 33), 9, np.uint8)).save(labels / "range.png")
    (images / "broken.png").write_text("no picture")
    Image.fromarray(np.zeros((24, 33), np.uint8)).save(labels / "broken.png")


def test_frames_that_cannot_be_scored_are_named_and_counted(cli, artefact: Path, labelled: Path) -> None:
    spoil(labelled)
    result = cli("eval", artefact, "--data", labelled, "--json", "-")
    (found,) = scores(result)
    assert (found["mean_iu"], found["frames"], len(found["problems"])) == (1, 2, 4)
    assert "Warning: 4 frames were not scored" in result.stderr
    for name in ("no_label.png", "size.png", "range.png", "broken.png"):
        assert sum(name in line for line in result.stderr.splitlines()) == 1, result.stderr


def test_strict_fails_where_a_frame_could_not_be_scored(cli, artefact: Path, labelled: Path) -> None:
    assert cli("eval", artefact, "--data", labelled, "--strict").exit_code == 0
    spoil(labelled)
    result = cli("eval", artefact, "--data", labelled, "--strict", "--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["results"][0]["frames"] == 2


def test_a_label_without_an_image_is_named(cli, artefact: Path, labelled: Path) -> None:
    Image.fromarray(np.zeros((24, 33), np.uint8)).save(labelled / "labels" / "alone.png")
    assert "alone.png has no image" in cli("eval", artefact, "--data", labelled).stderr


def test_pictures_on_request(cli, artefact: Path, labelled: Path) -> None:
    repaint(labelled / "labels" / "b.png", lambda labels: labels.fill(0))
    confusion, worst = labelled.with_name("confusion.png"), labelled.with_name("worst.png")
    result = cli(
        *("eval", artefact, "--data", labelled, "--confusion", confusion),
        *("--worst", 1, "--worst-out", worst),
    )
    assert result.exit_code == 0, result.output
    assert np.asarray(Image.open(confusion)).shape[2] == 3
    height, width = np.asarray(Image.open(worst)).shape[:2]
    assert width >= 3 * 33  # frame, true labels, predicted labels
    assert 24 < height < 2 * 24 + 10  # one row


def test_a_class_that_never_occurs_has_no_score(cli, artefact: Path, labelled: Path, tmp_path: Path) -> None:
    model = onnx.load(str(artefact))
    spec = ModelSpec.from_json(model.metadata_props[0].value)
    spec = spec.replace(classes=(*spec.classes, "never"), palette=())
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, str(tmp_path / "four.onnx"))
    result = cli("eval", tmp_path / "four.onnx", "--data", labelled, "--json", "-")
    (found,) = scores(result)
    assert found["iu_by_class"]["never"] is None
    assert math.isclose(found["mean_iu"], 1)
    assert ["never", "-"] in [line.split() for line in result.stderr.splitlines()]


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("none.onnx", "--data", "{data}"), 2, "none.onnx does not exist"),
        (("{model}", "--data", "{tmp}/none"), 2, "none"),
        (("{model}", "--data", "{data}/images"), 2, "has no labels"),
        (("{model}", "--data", "{data}", "--worst", "2"), 2, "belong together"),
        (("{model}", "--data", "{data}", "--worst-out", "{tmp}/w.png"), 2, "belong together"),
        (("{model}", "--data", "{data}", "--confusion", "{tmp}/c.txt"), 2, "must end in .png"),
        (("{model}", "--data", "{data}", "--json", "{tmp}"), 2, "is a folder"),
        (("{model}", "--data", "{data}", "--json", "{tmp}/none/s.json"), 2, "create it first"),
        (("{model}", "--data", "{data}", "--backend", "tpu"), 2, "unknown backend"),
        (("{model}", "{data}", "--data", "{data}"), 2, "is a folder"),
    ],
)
def test_wrong_calls(
    fails, artefact: Path, labelled: Path, tmp_path: Path, leftovers, words, code, part
) -> None:
    places = {"model": artefact, "data": labelled, "tmp": tmp_path}
    assert part in fails(code, "eval", *(word.format(**places) for word in words))
    assert not leftovers()


@pytest.mark.parametrize("words", [(), ("--data",), ("--data", ".", "--ignore-label", "256")], ids=" ".join)
def test_calls_that_cannot_be_parsed(cli, artefact: Path, words: tuple[str, ...]) -> None:
    assert cli("eval", artefact, *words).exit_code == 2


def test_nothing_that_can_be_scored_is_an_error(fails, artefact: Path, labelled: Path) -> None:
    for path in (labelled / "labels").iterdir():
        path.unlink()
    assert "not one of 2 frames" in fails(2, "eval", artefact, "--data", labelled)


def test_nothing_but_ignored_pixels_is_an_error(fails, artefact: Path, labelled: Path) -> None:
    for path in (labelled / "labels").iterdir():
        repaint(path, lambda labels: labels.fill(255))
    assert "nothing to score" in fails(2, "eval", artefact, "--data", labelled, "--json", "-")


@pytest.fixture
def half(artefact: Path, tmp_path: Path) -> Path:
    """An fp16 artefact whose inner numbers leave fp16 for channels above 131: 500 times 131 is 65,500."""
    model = onnx.load(str(artefact))
    spec = ModelSpec.from_json(model.metadata_props[0].value).replace(precision="fp16")
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    nodes = [node for node in model.graph.node if node.op_type in ("Cast", "Transpose", "ArgMax")]
    to, up, down = (
        onnx.helper.make_node("Cast", ["planes"], ["half"], to=onnx.TensorProto.FLOAT16),
        onnx.helper.make_node("Mul", ["half", "much"], ["large"]),
        onnx.helper.make_node("Cast", ["large"], ["wide"], to=onnx.TensorProto.FLOAT),
    )
    nodes[2].input[0] = "wide"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:2], to, up, down, *nodes[2:]])
    del model.graph.initializer[:]
    much = onnx.numpy_helper.from_array(np.array(500, np.float16), "much")
    model.graph.initializer.append(much)
    onnx.save(model, str(tmp_path / "half.onnx"))
    return tmp_path / "half.onnx"


def test_fp16_is_simulated_on_request_and_called_so(cli, half: Path, artefact: Path, labelled: Path) -> None:
    """Purple pixels, more red than blue: both overflow, and the first infinity wins."""
    for path in (labelled / "images").iterdir():
        Image.fromarray(np.full((24, 33, 3), (200, 0, 150), np.uint8)).save(path)
        repaint(labelled / "labels" / path.name, lambda labels: labels.fill(2))
    words = ("eval", half, artefact, "--data", labelled, "--json", "-", "--simulate-fp16")
    simulated, plain = scores(cli(*words))
    assert (simulated["backend"], simulated["artefact"]) == ("onnxruntime, fp16 simulated", str(half))
    assert simulated["pixel_accuracy"] == 0
    assert (plain["backend"], plain["pixel_accuracy"]) == ("onnxruntime", 1), "there is no fp16 in it"
    (unasked,) = scores(cli(*words[:2], *words[3:-1]))
    assert unasked["backend"] == "onnxruntime"


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "{file}", "--data", "{data}"),
        ("run", "{file}", "{data}/images"),
        pytest.param(
            ("bench", "{file}", "--rounds", "1", "--seconds", "0.1", "--size", "9x7"),
            marks=pytest.mark.slow,  # four processes
        ),
    ],
    ids=lambda words: words[0],
)
def test_a_program_without_its_manifest_runs_where_it_is_trusted(
    cli, program, labelled: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    alone = tmp_path / "alone.pt2"
    alone.write_bytes(program[0].read_bytes())
    call = [word.format(file=alone, data=labelled) for word in words]
    refused = cli(*call)
    assert refused.exit_code in (1, 2)
    assert "is a program, which can run any code when it is opened" in " ".join(refused.output.split())
    trusted = cli(*call, "--trust")
    assert trusted.exit_code == 0, trusted.output
