"""Files and iterables as sources: every frame in order, at the pace asked for."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.camera.frames import CameraFrame
from fcn_deploy.camera.sources import recorded
from fcn_deploy.camera.sources.opening import open_source
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.recorded import IterableSource
from fcn_deploy.errors import SourceError, UsageError

cv2 = pytest.importorskip("cv2")

FRAMES = 6


def picture(value=0, size=(32, 48)):
    return np.full((*size, 3), (value, 60, 250 - value), np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (48, 32))
    for index in range(FRAMES):
        writer.write(picture(30 * index))
    writer.release()
    return path


class Clock:
    """Replaces ``time`` and the stopping event: a wait moves the clock and takes no time."""

    def __init__(self, end=float("inf")):
        self.now, self.end = 0.0, end

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.now += max(0.0, seconds)
        return self.is_set()

    def is_set(self):
        return self.now >= self.end


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(recorded, "time", made)
    return made


def collect(source, stopping=None):
    return list(source.frames(stopping or threading.Event()))


# Videos.


@pytest.mark.parametrize("color_order", ["bgr", "rgb"])
def test_a_video_gives_every_frame_and_is_not_live(video, color_order):
    source = open_source(video, color_order)
    assert (source.live, source.length, source.fps, source.color_order) == (False, FRAMES, 20, color_order)
    frames = collect(source)
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.name for frame in frames] == [f"{index:06d}" for index in range(FRAMES)]
    blue = frames[0].image[..., 0 if color_order == "bgr" else 2]
    assert abs(int(blue.mean())) < 8
    assert source.state.phase == "ended"
    assert source.state.properties["got"]["size"] == [32, 48]


def test_a_video_can_be_read_again(video):
    source = open_source(video)
    assert len(collect(source)) == len(collect(source)) == FRAMES


def test_at_real_time_pace_a_video_is_live_and_takes_its_time(video, clock):
    source = open_source(video, options=SourceOptions(pace="real-time"))
    assert source.live
    frames = collect(source, clock)
    assert [frame.captured for frame in frames] == pytest.approx([index / 20 for index in range(FRAMES)])


def test_a_slow_consumer_gets_no_burst_of_frames_afterwards(video, clock):
    source = open_source(video, options=SourceOptions(pace="real-time"))
    times = []
    for frame in source.frames(clock):
        times.append(frame.captured)
        if frame.index == 0:
            clock.now += 0.2  # four frames' time
    assert times == pytest.approx([0.0, 0.2, 0.25, 0.3, 0.35, 0.4])


def test_stopping_ends_a_wait_for_the_pace_at_once(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    Image.fromarray(picture()).save(tmp_path / "b.png")
    source = open_source(tmp_path, options=SourceOptions(pace="real-time", fps=0.01))
    stopping = threading.Event()
    frames = source.frames(stopping)
    next(frames)
    threading.Timer(0.1, stopping.set).start()
    begun = time.monotonic()
    list(frames)
    assert time.monotonic() - begun < 5


def test_a_video_shorter_than_stated_gives_a_warning_with_both_numbers(tmp_path, caplog):
    cut = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(cut), cv2.VideoWriter_fourcc(*"MJPG"), 20, (96, 64))
    noise = np.random.default_rng(0)
    for _ in range(FRAMES):
        writer.write(noise.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
    content = cut.read_bytes()
    cut.write_bytes(content[: int(len(content) * 0.8)])
    source = open_source(cut)
    frames = collect(source)
    assert 0 < len(frames) < FRAMES
    message = f"states {FRAMES} frames and gave {len(frames)}: it is damaged or cut off"
    assert source.state.message == message
    assert [record.getMessage() for record in caplog.records] == [f"{cut} {message}"]


def test_a_video_that_is_stopped_early_gives_no_warning(video):
    source = open_source(video)
    stopping = threading.Event()
    frames = source.frames(stopping)
    next(frames)
    stopping.set()
    assert list(frames) == []
    assert source.state.message == ""


def test_the_file_is_closed_when_the_iteration_is_left(video, monkeypatch):
    opened = []
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: opened.append(real(*given)) or opened[-1])
    with closing(open_source(video).frames(threading.Event())) as frames:
        next(frames)
        assert opened[-1].isOpened()
    assert not opened[-1].isOpened()


def test_the_rotation_in_a_videos_header_is_honoured(tmp_path):
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 32))
    left_bright = np.zeros((32, 64, 3), np.uint8)
    left_bright[:, :32] = 255
    writer.write(left_bright)
    writer.release()
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    one = 1 << 16
    quarter_turn = (0, one, 0, -one & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big") for number in quarter_turn)
    path.write_bytes(content)

    (frame,) = collect(open_source(path))
    assert frame.image.shape == (64, 32, 3)
    assert frame.image[:28].mean() > 230  # what was left is up after a quarter turn clockwise
    assert frame.image[36:].mean() < 25


# Images.


def test_a_folder_gives_its_images_in_order_and_rotated(tmp_path):
    for index in range(3):
        Image.fromarray(picture(index, (4, 6))).save(tmp_path / f"{index}.png")
    source = open_source(str(tmp_path), "rgb", SourceOptions(rotate=90))
    frames = collect(source)
    assert [(frame.name, frame.index, frame.camera) for frame in frames] == [
        ("0.png", 0, 0),
        ("1.png", 1, 0),
        ("2.png", 2, 0),
    ]
    assert [frame.image.shape for frame in frames] == [(6, 4, 3)] * 3
    assert [frame.image[0, 0, 0] for frame in frames] == [0, 1, 2]
    assert not source.live
    assert source.length == 3


def test_real_time_pace_of_images_needs_a_rate(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="give fps for real-time pace"):
        open_source(tmp_path, options=SourceOptions(pace="real-time"))


def test_a_missing_file_is_refused_on_opening(tmp_path):
    with pytest.raises(SourceError, match="none does not exist"):
        open_source(tmp_path / "none")


def test_an_unknown_colour_order_is_refused(video):
    with pytest.raises(UsageError, match="must be bgr or rgb, not 'hsv'"):
        open_source(video, "hsv")


# Iterables.


def test_arrays_become_frames_in_order():
    arrays = [picture(index) for index in range(3)]
    source = IterableSource(arrays)
    frames = collect(source)
    assert all(frame.image is array for frame, array in zip(frames, arrays, strict=True))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert (source.live, source.length, source.fps) == (False, 3, None)
    assert len(collect(source)) == 3


def test_camera_frames_are_passed_on_unchanged():
    frame = CameraFrame(picture(), "mine", 7, 1.5, camera=2)
    assert collect(IterableSource([frame])) == [frame]


def test_a_generator_is_read_at_the_pace_given_and_stays_open(clock):
    generator = (picture() for _ in range(100))
    source = IterableSource(generator, live=True, fps=50)
    clock.end = 0.15
    frames = collect(source, clock)
    assert [frame.captured for frame in frames] == pytest.approx([index / 50 for index in range(8)])
    assert source.live
    assert source.length is None
    next(generator)


def test_an_error_of_the_iterable_is_raised():
    def broken():
        yield picture()
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        collect(IterableSource(broken()))
