"""clip: frames and labels as files, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.files import sha256_of

SMALL = ("--frames", 3, "--size", "40x56")


def test_images_and_labels_of_the_same_names(cli, tmp_path: Path, leftovers) -> None:
    result = cli("clip", tmp_path / "clip", *SMALL)
    assert result.exit_code == 0, result.output
    for part, shape in (("images", (40, 56, 3)), ("labels", (40, 56))):
        files = sorted((tmp_path / "clip" / part).iterdir())
        assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
        assert np.asarray(Image.open(files[0])).shape == shape
    assert np.asarray(Image.open(tmp_path / "clip" / "labels" / "000000.png")).max() <= 11
    assert not leftovers()


def test_the_same_seed_gives_the_same_bytes_and_may_be_written_again(cli, tmp_path: Path) -> None:
    def hashes() -> list[str]:
        assert cli("clip", tmp_path / "clip", *SMALL, "--seed", 4).exit_code == 0
        return [sha256_of(path) for path in sorted((tmp_path / "clip").rglob("*.png"))]

    assert hashes() == hashes()


def test_it_can_be_read_as_a_labelled_folder(cli, tmp_path: Path) -> None:
    from fcn_deploy.data.folders import LabelledFolder

    cli("clip", tmp_path / "clip", *SMALL)
    frames = list(LabelledFolder(tmp_path / "clip"))
    assert len(frames) == 3
    assert frames[0].labels is not None


def test_json_and_video(cli, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    result = cli("clip", tmp_path / "clip", *SMALL, "--video", tmp_path / "clip.mp4", "--json")
    assert json.loads(result.stdout) == {
        **{"folder": str(tmp_path / "clip"), "frames": 3, "height": 40, "width": 56, "seed": 0}
    }
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    capture.release()


def test_frames_of_another_clip_are_not_mixed_in(cli, fails, tmp_path: Path) -> None:
    cli("clip", tmp_path / "clip", *SMALL)
    message = fails(2, "clip", tmp_path / "clip", "--frames", 2, "--size", "40x56")
    assert "already holds 1 other files (000002.png, ...)" in message


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("{tmp}/clip", "--size", "0x5"), "expected height x width"),
        (("{tmp}/clip", "--size", "big"), "expected height x width"),
        (("{tmp}/clip", "--video", "{tmp}/clip.gif"), "ends in .mp4"),
        (("{tmp}/file", "--frames", "1"), "cannot create the folder"),
        (("{tmp}/clip", "--frames", "1", "--video", "{tmp}/none/clip.mp4"), "create it first"),
    ],
)
def test_wrong_calls(fails, tmp_path: Path, leftovers, words, part: str) -> None:
    (tmp_path / "file").write_text("a file")
    assert part in fails(2, "clip", *(word.format(tmp=tmp_path) for word in words))
    assert not leftovers()


@pytest.mark.parametrize("words", [("--frames", "0"), ("--seed", "-1"), ("a", "b")], ids=" ".join)
def test_calls_that_cannot_be_parsed(cli, words: tuple[str, ...]) -> None:
    assert cli("clip", "clip", *words).exit_code == 2
