"""Sinks: what they write, under which names, and what happens when they cannot."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from deliveries import delivery
from PIL import Image

from fcn_deploy.camera import Delivery
from fcn_deploy.camera.sinks.base import Sink, StopPipeline
from fcn_deploy.camera.sinks.confidence_pngs import ConfidencePngs
from fcn_deploy.camera.sinks.encoders import why_no_ffmpeg
from fcn_deploy.camera.sinks.files import write_picture
from fcn_deploy.camera.sinks.label_pngs import LabelPngs
from fcn_deploy.camera.sinks.overlay_pictures import OverlayPictures
from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
from fcn_deploy.camera.sinks.raw_labels import RawLabels
from fcn_deploy.camera.sinks.video_file import VideoFile
from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.errors import PipelineError, UsageError

cv2 = pytest.importorskip("cv2")


def give(sink: Sink, *deliveries: Delivery) -> None:
    with sink:
        for each in deliveries:
            sink(each)
    sink.close()  # twice is harmless


def video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    fps = capture.get(cv2.CAP_PROP_FPS)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames, fps


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_an_overlay_video_has_the_palettes_colours(tmp_path: Path, order: str) -> None:
    give(
        OverlayVideo(tmp_path / "o.mp4", 10.0, alpha=1.0, legend=False),
        *[delivery(i, order=order) for i in range(3)],
    )
    frames, fps = video(tmp_path / "o.mp4")
    assert len(frames) == 3 and fps == 10
    found = frames[0][12, 16].astype(int)
    assert np.abs(found[::-1] - CAMVID_PALETTE[3]).max() < 12  # the encoder's loss


def test_a_rate_that_nobody_knows_is_measured(tmp_path: Path) -> None:
    give(OverlayVideo(tmp_path / "o.mp4"), *[delivery(i, captured=i / 8) for i in range(20)])
    frames, fps = video(tmp_path / "o.mp4")
    assert len(frames) == 20
    assert fps == pytest.approx(8, abs=0.05)


@pytest.mark.skipif(why_no_ffmpeg() is not None, reason="no ffmpeg program with libx264 here")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_rate_that_changes_is_the_mean_and_pauses_are_cut_out(tmp_path: Path, suffix: str) -> None:
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
    assert len(video(tmp_path / "o.mkv")[0]) == count


def test_a_frame_of_another_size_does_not_break_the_video(tmp_path: Path) -> None:
    give(OverlayVideo(tmp_path / "o.mp4", 5.0), delivery(0), delivery(1, size=(11, 50)), delivery(2))
    frames, _ = video(tmp_path / "o.mp4")
    assert [frame.shape for frame in frames] == [(24, 32, 3)] * 3


def test_each_camera_has_a_video(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "o.mp4", 5.0, cameras=2)
    give(sink, delivery(0), delivery(0, camera=1), delivery(1, camera=1))
    assert files(tmp_path) == {"o.0.mp4", "o.1.mp4"}
    assert [len(video(tmp_path / f"o.{camera}.mp4")[0]) for camera in (0, 1)] == [1, 2]


def test_without_a_frame_the_old_video_stays(tmp_path: Path) -> None:
    (tmp_path / "o.mp4").write_bytes(b"old")
    give(OverlayVideo(tmp_path / "o.mp4"))
    assert (tmp_path / "o.mp4").read_bytes() == b"old"
    assert files(tmp_path) == {"o.mp4"}


def test_a_picture_always_shows_the_newest_frame(tmp_path: Path) -> None:
    sink = OverlayPictures(tmp_path / "o.png", alpha=1.0, legend=False)
    with sink:
        for label in (3, 5):
            sink(delivery(label, label=label))
            shown = np.asarray(Image.open(tmp_path / "o.png"))
            assert tuple(shown[0, 0]) == CAMVID_PALETTE[label]
    assert files(tmp_path) == {"o.png"}


def test_pictures_and_maps_are_named_like_their_frames(tmp_path: Path) -> None:
    frames = [delivery(0, name="a.jpg"), delivery(1, name="more/b.png"), delivery(2)]
    give(OverlayPictures(tmp_path / "o"), *frames)
    give(LabelPngs(tmp_path / "l"), *frames)
    assert files(tmp_path / "o") == files(tmp_path / "l") == {"a.png", "more/b.png", "000002.png"}
    with Image.open(tmp_path / "l" / "a.png") as image:
        assert image.mode == "P" and set(np.unique(np.asarray(image))) == {3}


def test_several_cameras_have_folders_of_their_own(tmp_path: Path) -> None:
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


def test_confidence_becomes_pictures_or_says_why_not(tmp_path: Path) -> None:
    sink = ConfidencePngs(tmp_path)
    sink(delivery(confidence=True))
    assert files(tmp_path) == {"000000.png"}
    with pytest.raises(UsageError, match="--outputs labels,confidence"):
        sink(delivery())


def test_what_the_system_refuses_during_a_run_is_no_wrong_call(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "l").mkdir()
        (tmp_path / "l" / "more").write_bytes(b"a file where a folder has to be")
        sink, name = LabelPngs(tmp_path / "l"), "more/a.png"
    else:
        sink, name = LabelPngs(tmp_path / "l"), "a.png"
        (tmp_path / "l").chmod(0o500)
    with pytest.raises(PipelineError):
        sink(delivery(name=name))


def maps_in(data: bytes, comment: bool = False) -> list[np.ndarray]:
    stream, maps = io.BytesIO(data), []
    while stream.readline() == b"P5\n":
        if comment:
            assert stream.readline().startswith(b"# camera ")
        width, height = map(int, stream.readline().split())
        assert stream.readline() == b"255\n"
        maps.append(np.frombuffer(stream.read(width * height), np.uint8).reshape(height, width))
    return maps


def test_a_stream_of_labels_is_pgm(tmp_path: Path) -> None:
    into = io.BytesIO()
    give(RawLabels(into), delivery(0), delivery(1, label=7, size=(5, 9)))
    first, second = maps_in(into.getvalue())
    assert first.shape == (24, 32) and set(np.unique(first)) == {3}
    assert second.shape == (5, 9) and set(np.unique(second)) == {7}
    one = tmp_path / "one.pgm"
    give(RawLabels(one), delivery(0))
    assert np.array_equal(np.asarray(Image.open(one)), first)


def test_a_stream_of_several_cameras_says_which() -> None:
    into = io.BytesIO()
    give(RawLabels(into, cameras=2), delivery(0), delivery(0, camera=1))
    assert len(maps_in(into.getvalue(), comment=True)) == 2
    assert b"# camera 1\n" in into.getvalue()


def test_a_reader_that_goes_away_ends_the_stream(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = threading.Thread(target=lambda: pipe.open("rb").close())
    reading.start()
    sink = RawLabels(pipe)
    reading.join()
    with pytest.raises(StopPipeline):
        sink(delivery())
    sink.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said() -> None:
    with (
        RawLabels("/dev/full") as sink,
        pytest.raises(PipelineError, match="cannot write labels to /dev/full: No space"),
    ):
        sink(delivery())


class Full:
    """A file on a full disk: it takes half of what it is given."""

    def __init__(self, real: io.RawIOBase) -> None:
        self._real = real

    def write(self, data: memoryview) -> int:
        return _fail_half(self._real, data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def test_a_file_of_maps_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "maps.pgm"
    with RawLabels(path) as sink:
        sink(delivery(0))
        real, sink._stream = sink._stream, Full(sink._stream)
        with pytest.raises(PipelineError, match="No space"):
            sink(delivery(1))
        sink._stream = real
        sink(delivery(2, label=7))
    assert [set(np.unique(each)) for each in maps_in(path.read_bytes())] == [{3}, {7}]


def test_a_stream_with_half_a_map_in_it_takes_no_more() -> None:
    """Its reader would take what follows for the other half."""
    into = io.BytesIO()
    sink = RawLabels(into)
    sink._stream = Full(into)
    with pytest.raises(PipelineError, match="No space"):
        sink(delivery(0))
    sink._stream = into
    before = into.getvalue()
    with pytest.raises(PipelineError, match="the map before it was written only in part"):
        sink(delivery(1))
    assert into.getvalue() == before


def test_a_file_of_maps_holds_whole_ones_only(tmp_path: Path) -> None:
    """The disk runs full in the middle of the second."""
    path = tmp_path / "maps.pgm"
    sink = RawLabels(path)
    sink(delivery(0))
    real = sink._stream
    sink._stream = Full(real)
    with pytest.raises(PipelineError, match="No space"):
        sink(delivery(1))
    sink.close()
    assert len(maps_in(path.read_bytes())) == 1
    assert path.stat().st_size == len(b"P5\n32 24\n255\n") + 24 * 32


@pytest.mark.skipif(why_no_ffmpeg() is not None, reason="no ffmpeg program with libx264 here")
def test_a_video_that_cannot_be_finished_costs_the_other_cameras_nothing(tmp_path: Path) -> None:
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
    assert len(video(tmp_path / "o.1.mp4")[0]) == 3


def _kill(file: VideoFile) -> None:
    process = file._encoder._process
    process.kill()
    process.wait()


def _fail_half(stream: io.RawIOBase, data: memoryview) -> int:
    stream.write(data[: len(data) // 2])
    raise OSError(28, "No space left on device")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    write_picture(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="unknown file extension"):
        write_picture(tmp_path / "p.xyz", np.zeros((4, 4, 3), np.uint8))
    assert path.read_bytes() == before and files(tmp_path) == {"p.png"}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        OverlayVideo(tmp_path / "o.mp4", alpha=alpha)
    with pytest.raises(UsageError, match="alpha"):
        OverlayPictures(tmp_path / "o", alpha=alpha)
    assert files(tmp_path) == set()
