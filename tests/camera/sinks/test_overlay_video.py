"""Overlay videos: colours, rates, several cameras, and encoders that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deliveries import delivery
from sink_runs import files, give
from videos import frames_of, rate_of

from fcn_deploy.camera.sinks.encoders import why_no_ffmpeg
from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
from fcn_deploy.camera.sinks.video_file import VideoFile
from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.errors import PipelineError

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_an_overlay_video_has_the_palettes_colours(tmp_path: Path, order: str) -> None:
    give(
        OverlayVideo(tmp_path / "o.mp4", 10.0, alpha=1.0, legend=False),
        *[delivery(i, order=order) for i in range(3)],
    )
    frames, fps = frames_of(tmp_path / "o.mp4"), rate_of(tmp_path / "o.mp4")
    assert len(frames) == 3 and fps == 10
    found = frames[0][12, 16].astype(int)
    assert np.abs(found[::-1] - CAMVID_PALETTE[3]).max() < 12  # the encoder's loss


def test_an_unknown_rate_is_measured(tmp_path: Path) -> None:
    give(OverlayVideo(tmp_path / "o.mp4"), *[delivery(i, captured=i / 8) for i in range(20)])
    frames, fps = frames_of(tmp_path / "o.mp4"), rate_of(tmp_path / "o.mp4")
    assert len(frames) == 20
    assert fps == pytest.approx(8, abs=0.05)


@pytest.mark.skipif(why_no_ffmpeg() is not None, reason="no ffmpeg program with libx264 here")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_changing_rate_becomes_its_mean_and_pauses_are_cut_out(tmp_path: Path, suffix: str) -> None:
    """Ten frames at 20 a second, a minute of nothing, and thirty at 5 a second."""
    moments = [i / 20 for i in range(10)] + [60 + i / 5 for i in range(30)]
    give(OverlayVideo(tmp_path / f"o{suffix}"), *[delivery(i, captured=t) for i, t in enumerate(moments)])
    capture, shown = cv2.VideoCapture(str(tmp_path / f"o{suffix}")), []
    while capture.read()[0]:
        shown.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
    capture.release()
    assert len(shown) == 40
    assert (shown[-1] - shown[0]) / 39 == pytest.approx((9 / 20 + 29 / 5) / 38, rel=0.02)
    assert files(tmp_path) == {f"o{suffix}"}


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10])
def test_no_frame_is_lost_while_the_rate_is_measured(tmp_path: Path, count: int) -> None:
    give(OverlayVideo(tmp_path / "o.mkv"), *[delivery(i, captured=i / 8) for i in range(count)])
    assert len(frames_of(tmp_path / "o.mkv")) == count


def test_a_frame_of_another_size_does_not_break_the_video(tmp_path: Path) -> None:
    give(OverlayVideo(tmp_path / "o.mp4", 5.0), delivery(0), delivery(1, size=(11, 50)), delivery(2))
    frames = frames_of(tmp_path / "o.mp4")
    assert [frame.shape for frame in frames] == [(24, 32, 3)] * 3


def test_each_camera_has_a_video(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "o.mp4", 5.0, cameras=2)
    give(sink, delivery(0), delivery(0, camera=1), delivery(1, camera=1))
    assert files(tmp_path) == {"o.0.mp4", "o.1.mp4"}
    assert [len(frames_of(tmp_path / f"o.{camera}.mp4")) for camera in (0, 1)] == [1, 2]


def test_without_a_frame_the_old_video_stays(tmp_path: Path) -> None:
    (tmp_path / "o.mp4").write_bytes(b"old")
    give(OverlayVideo(tmp_path / "o.mp4"))
    assert (tmp_path / "o.mp4").read_bytes() == b"old"
    assert files(tmp_path) == {"o.mp4"}


@pytest.mark.skipif(why_no_ffmpeg() is not None, reason="no ffmpeg program with libx264 here")
def test_a_video_that_cannot_be_finished_leaves_the_others_complete(tmp_path: Path) -> None:
    """The first camera's encoder is killed while the second one's frames still wait for a rate."""
    sink = OverlayVideo(tmp_path / "o.mp4", cameras=2)
    for index in range(12):
        sink(delivery(index, captured=index / 8))
    for index in range(3):
        sink(delivery(index, camera=1, captured=index / 8))
    _kill(sink.videos[0])
    with pytest.raises(PipelineError, match=r"o\.0\.mp4 was cut short"):
        sink.close()
    sink.close()
    assert len(frames_of(tmp_path / "o.1.mp4")) == 3


def _kill(file: VideoFile) -> None:
    process = file._encoder._process
    process.kill()
    process.wait()
