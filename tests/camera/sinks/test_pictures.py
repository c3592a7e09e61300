"""Sinks that write PNGs: overlays, label maps, heat maps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from deliveries import delivery
from PIL import Image
from sink_runs import files, give

from fcn_deploy.camera.sinks.confidence_pngs import ConfidencePngs
from fcn_deploy.camera.sinks.files import write_picture
from fcn_deploy.camera.sinks.label_pngs import LabelPngs
from fcn_deploy.camera.sinks.overlay_pictures import OverlayPictures
from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.errors import PipelineError, UsageError

pytest.importorskip("cv2")  # for the overlay video


def test_a_picture_always_shows_the_newest_frame(tmp_path: Path) -> None:
    sink = OverlayPictures(tmp_path / "o.png", alpha=1.0, legend=False)
    with sink:
        for label in (3, 5):
            sink(delivery(label, label=label))
            shown = np.asarray(Image.open(tmp_path / "o.png"))
            assert tuple(shown[0, 0]) == CAMVID_PALETTE[label]
    assert files(tmp_path) == {"o.png"}


def test_pictures_and_label_maps_are_named_like_their_frames(tmp_path: Path) -> None:
    frames = [delivery(0, name="a.jpg"), delivery(1, name="more/b.png"), delivery(2)]
    give(OverlayPictures(tmp_path / "o"), *frames)
    give(LabelPngs(tmp_path / "l"), *frames)
    assert files(tmp_path / "o") == files(tmp_path / "l") == {"a.png", "more/b.png", "000002.png"}
    with Image.open(tmp_path / "l" / "a.png") as image:
        assert image.mode == "P" and set(np.unique(np.asarray(image))) == {3}


def test_each_camera_has_its_own_folder(tmp_path: Path) -> None:
    give(LabelPngs(tmp_path, cameras=2), delivery(0), delivery(0, camera=1))
    assert files(tmp_path) == {"camera0/000000.png", "camera1/000000.png"}


def test_two_frames_of_one_name_are_refused(tmp_path: Path) -> None:
    sink = LabelPngs(tmp_path)
    sink(delivery(0, name="a.jpg"))
    with pytest.raises(UsageError, match=r"a\.png would overwrite"):
        sink(delivery(1, name="a.png"))


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "more/../../a.png"])
def test_a_name_may_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="leads out of"):
        LabelPngs(tmp_path / "l")(delivery(name=name))
    assert files(tmp_path) == set()


def test_confidence_becomes_pictures_or_an_error_that_says_why(tmp_path: Path) -> None:
    sink = ConfidencePngs(tmp_path)
    sink(delivery(confidence=True))
    assert files(tmp_path) == {"000000.png"}
    with pytest.raises(UsageError, match="--outputs labels,confidence"):
        sink(delivery())


def test_a_failed_write_during_a_run_is_a_pipeline_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "l").mkdir()
        (tmp_path / "l" / "more").write_bytes(b"a file where a folder has to be")
        sink, name = LabelPngs(tmp_path / "l"), "more/a.png"
    else:
        sink, name = LabelPngs(tmp_path / "l"), "a.png"
        (tmp_path / "l").chmod(0o500)
    with pytest.raises(PipelineError):
        sink(delivery(name=name))


def test_a_picture_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    write_picture(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="unknown file extension"):
        write_picture(tmp_path / "p.xyz", np.zeros((4, 4, 3), np.uint8))
    assert path.read_bytes() == before and files(tmp_path) == {"p.png"}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        OverlayVideo(tmp_path / "o.mp4", alpha=alpha)
    with pytest.raises(UsageError, match="alpha"):
        OverlayPictures(tmp_path / "o", alpha=alpha)
    assert files(tmp_path) == set()
