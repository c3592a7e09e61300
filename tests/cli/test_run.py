"""run: pictures, label maps, heat maps, videos, and calls that cannot be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.camera import sinks
from fcn_deploy.cli import outputs

THIRDS = {"red": 1 / 3, "green": 1 / 3, "blue": 1 / 3}


def decoded(path: Path) -> list[np.ndarray]:
    """The frames of a video, B, G, R."""
    cv2 = pytest.importorskip("cv2")
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


def test_an_image_becomes_a_picture_with_its_labels(cli, artefact: Path, image: Path, leftovers) -> None:
    out = image.with_name("overlay.png")
    result = cli("run", artefact, image, "--overlay", out, "--alpha", 1)
    assert result.exit_code == 0, result.output
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (24, 33, 3)
    # Fully covered by the palette: red, green and blue again, in R, G, B.
    assert [drawn[12, x].argmax() for x in (5, 16, 27)] == [0, 1, 2]
    assert "1 frame in" in result.stdout and "onnxruntime on cpu" in result.stdout
    assert "Note: a test's graph" in result.stdout
    assert not leftovers()


def test_json_is_the_only_output_and_counts_add_up(cli, artefact: Path, image: Path) -> None:
    result = cli("run", artefact, image, "--json")
    report = json.loads(result.stdout)
    assert report["frames"] == 1
    assert report["class_shares"] == pytest.approx(THIRDS)
    assert report["written"] == []
    counted = report["statistics"]
    assert (counted["captured"], counted["delivered"], counted["in_flight"]) == (1, 1, 0)
    assert 1e3 * report["seconds"] >= counted["stages_ms"]["infer"]["max"] > 0
    assert (report["backend"], report["device"], report["interrupted"]) == ("onnxruntime", "cpu", False)


def test_a_folder_becomes_label_maps_under_the_same_names(cli, artefact: Path, images: Path) -> None:
    labels = images.with_name("labels")
    result = cli("run", artefact, images, "--masks", labels, "--json")
    assert result.exit_code == 0, result.output
    assert {p.relative_to(labels).as_posix() for p in labels.rglob("*.png")} == {
        "a.png",
        "b.png",
        "more/c.png",
    }
    first = np.asarray(Image.open(labels / "a.png"))
    assert [first[12, x] for x in (5, 16, 27)] == [2, 1, 0]
    assert np.asarray(Image.open(labels / "more" / "c.png")).shape == (31, 20)
    assert json.loads(result.stdout)["written"] == [str(labels)]


def test_a_folder_becomes_a_video_of_the_first_frames_size(cli, artefact: Path, images: Path) -> None:
    out = images.with_name("overlay.mp4")
    assert cli("run", artefact, images, "--overlay", out).exit_code == 0
    frames = decoded(out)
    assert [frame.shape for frame in frames] == [(24, 34, 3)] * 3  # codecs want even numbers


def test_a_folder_becomes_a_folder_of_pictures(cli, artefact: Path, images: Path) -> None:
    out = images.with_name("overlays")
    assert cli("run", artefact, images, "--overlay", out, "--max-frames", 2).exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png"]


def test_a_video_becomes_a_video_of_as_many_frames(cli, artefact: Path, images: Path) -> None:
    clip, out = images.with_name("clip.avi"), images.with_name("overlay.mkv")
    with outputs.video_file(clip, 12.0) as append:
        for index in range(5):
            append(np.full((32, 48, 3), 40 * index, np.uint8))
    result = cli("run", artefact, clip, "--overlay", out, "--masks", images.with_name("labels"), "--json")
    assert json.loads(result.stdout)["frames"] == 5
    assert len(decoded(out)) == 5
    assert len(list(images.with_name("labels").iterdir())) == 5


def test_confidence_becomes_heat_maps(cli, sure_artefact: Path, image: Path) -> None:
    out = image.with_name("confidence")
    assert cli("run", sure_artefact, image, "--confidence", out).exit_code == 0
    assert np.asarray(Image.open(out / "photo.png")).shape == (24, 33, 3)


def test_confidence_that_was_not_exported_says_how_to_get_it(fails, artefact: Path, image: Path) -> None:
    message = fails(2, "run", artefact, image, "--confidence", image.with_name("confidence"))
    assert "--outputs labels,confidence" in message
    assert not image.with_name("confidence").exists()


def test_without_an_output_the_next_step_is_suggested(cli, artefact: Path, image: Path) -> None:
    assert "Nothing was written; add --overlay" in cli("run", artefact, image).stdout


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("none.onnx", "{image}"), 2, "none.onnx does not exist"),
        (("{image}", "{image}"), 2, "photo.png is no artefact"),
        (("{tmp}", "{image}"), 2, "is a folder"),
        (("{model}", "none.png"), 2, "none.png does not exist"),
        (("{model}", "{empty}"), 2, "holds no image"),
        (("{model}", "{broken}"), 2, "cannot be read as an image"),
        (("{model}", "{broken_video}"), 2, "cannot be decoded"),
        (("{model}", "{image}", "--backend", "tpu"), 2, "unknown backend 'tpu'"),
        (("{model}", "{image}", "--backend", "pytorch"), 2, "the pytorch backend reads .safetensors"),
        (("{model}", "{image}", "--device", "npu"), 2, "npu"),
        (("{model}", "{image}", "--provider", "webgpu"), 2, "unknown provider 'webgpu'"),
        (("{model}", "{image}", "--overlay", "{tmp}/out.gif"), 2, "expected a video (.mp4"),
        (("{model}", "{images}", "--overlay", "{tmp}/out.png"), 2, "is one picture"),
        (("{model}", "{image}", "--overlay", "{tmp}/none/out.png"), 2, "does not exist; create it first"),
        (("{model}", "{image}", "--overlay", "{image}"), 2, "would overwrite frames"),
        (("{model}", "{images}", "--masks", "{images}"), 2, "would overwrite frames"),
        (("{model}", "{image}", "--masks", "{tmp}"), 2, "would overwrite frames"),
        (("{model}", "{images}", "--masks", "{tmp}/a", "--overlay", "{tmp}/a"), 2, "the same path"),
        (("{model}", "{image}", "--masks", "{image}/x"), 2, "cannot create the folder"),
        (("{model}", "{image}", "--masks", "{broken_video}"), 2, "a folder was expected"),
    ],
)
def test_wrong_calls(
    fails, artefact: Path, images: Path, image: Path, tmp_path: Path, leftovers, words, code: int, part: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:50])
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 300)
    before = image.read_bytes()
    places = {
        **{"model": artefact, "image": image, "images": images, "tmp": tmp_path},
        **{"empty": tmp_path / "empty", "broken": tmp_path / "broken.png"},
        "broken_video": tmp_path / "broken.mp4",
    }
    assert part in fails(code, "run", *(word.format(**places) for word in words))
    assert image.read_bytes() == before
    assert not leftovers()


@pytest.mark.parametrize(
    "words",
    [("--max-frames", "0"), ("--threads", "0"), ("--alpha", "2"), ("--alpha", "much"), ("--masks",)],
    ids=" ".join,
)
def test_numbers_out_of_range_exit_with_2(cli, artefact: Path, image: Path, words) -> None:
    assert cli("run", artefact, image, *words).exit_code == 2


def test_an_unreadable_frame_is_named_and_the_video_holds_the_frames_before_it(
    fails, artefact: Path, images: Path, leftovers
) -> None:
    (images / "b.png").write_bytes(b"no picture")
    out = images.with_name("overlay.mp4")
    assert "b.png cannot be read" in fails(2, "run", artefact, images, "--overlay", out)
    assert len(decoded(out)) == 1
    assert not leftovers()


def test_a_run_that_fails_at_its_first_frame_leaves_the_old_video(
    fails, artefact: Path, images: Path, leftovers
) -> None:
    (images / "a.png").write_bytes(b"no picture")
    out = images.with_name("overlay.mp4")
    out.write_bytes(b"the old one")
    assert "a.png cannot be read" in fails(2, "run", artefact, images, "--overlay", out)
    assert out.read_bytes() == b"the old one"
    assert not leftovers()


def test_two_frames_of_one_name_do_not_overwrite_each_other(fails, artefact: Path, images: Path) -> None:
    Image.open(images / "a.png").save(images / "a.bmp")
    message = fails(2, "run", artefact, images, "--masks", images.with_name("labels"))
    assert "a.png would overwrite" in message


def test_a_device_that_is_not_there_is_an_error_unless_the_fall_back_is_allowed(
    cli, fails, artefact: Path, image: Path
) -> None:
    try:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
    except ImportError:
        pass
    assert "cuda" in fails(1, "run", artefact, image, "--device", "cuda").lower()
    result = cli("run", artefact, image, "--device", "cuda", "--allow-fallback", "--json")
    assert json.loads(result.stdout)["device"] == "cpu"


@pytest.mark.skipif(os.environ.get("DISPLAY") is not None, reason="there is a display")
def test_show_without_a_display_says_what_to_do(fails, artefact: Path, image: Path) -> None:
    assert "use --overlay instead" in fails(1, "run", artefact, image, "--show")


def test_a_window_that_is_closed_ends_the_run(cli, artefact: Path, images: Path, monkeypatch) -> None:
    class Closed(sinks.Sink):
        def __init__(self, **_: object) -> None:
            pass

        def __call__(self, delivery: object) -> None:
            raise sinks.StopPipeline

        def close(self) -> None:
            pass

    monkeypatch.setattr(sinks, "Window", Closed)
    result = cli("run", artefact, images, "--show", "--masks", images.with_name("labels"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["frames"] <= 3
    assert "a.png" in [p.name for p in images.with_name("labels").iterdir()]
