"""Live sources against a capture that fails in every way a camera can."""

from __future__ import annotations

import logging
import sys
import threading
import time

import numpy as np
import pytest

from fcn_deploy.camera.sources import live, opencv
from fcn_deploy.camera.sources.opencv import video_backends
from fcn_deploy.camera.sources.opening import open_source
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.errors import BackendUnavailable, MissingDependency, PipelineError, SourceError

cv2 = pytest.importorskip("cv2")

QUICK = {"first_wait": 0.01, "longest_wait": 0.02, "read_timeout": 0.3, "open_timeout": 0.5}
GOOD = np.full((4, 6, 3), (10, 20, 30), np.uint8)


class Site:
    """Every capture that is opened takes the next script: what it gives until it is lost.

    A script is a list of images, of exceptions to raise, of numbers to sleep, or of None for a frame
    that cannot be decoded; or ``"absent"`` for a device that does not open. The last one repeats.
    """

    def __init__(self, *scripts):
        self.scripts = scripts
        self.opened = []

    def __call__(self, target, api, parameters):
        script = self.scripts[min(len(self.opened), len(self.scripts) - 1)]
        if isinstance(script, Exception):
            self.opened.append(None)
            raise script
        self.opened.append(FakeCapture(target, api, parameters, script))
        return self.opened[-1]


class FakeCapture:
    def __init__(self, target, api, parameters, script):
        self.target, self.api = target, api
        self.parameters = dict(zip(parameters[::2], parameters[1::2], strict=True))
        self.absent = script == "absent"
        self.script = [] if self.absent else list(script)
        self.settings = []
        self.fixed = {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter_fourcc(*"YUYV"))}
        self.released = False
        self.image = None

    def isOpened(self):
        return not self.absent and not self.released

    def grab(self):
        assert not self.released
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                time.sleep(step)
                continue
            self.image = step
            return True
        return False

    def retrieve(self):
        return self.image is not None, self.image

    def set(self, name, value):
        self.settings.append((name, value))
        return True

    def get(self, name):
        return self.fixed.get(name, 0.0)

    def getBackendName(self):
        return "V4L2"

    def release(self):
        self.released = True


@pytest.fixture
def site(monkeypatch):
    def build(*scripts):
        made = Site(*scripts)
        monkeypatch.setattr(cv2, "VideoCapture", made)
        monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda api: True)
        return made

    return build


def device(**options):
    return open_source(0, options=SourceOptions(**{**QUICK, **options}))


def take(source, count, stopping=None):
    """The first ``count`` frames; whatever the source does, it is closed afterwards."""
    frames = source.frames(stopping or threading.Event())
    try:
        return [next(frames) for _ in range(count)]
    finally:
        frames.close()


# --- lost and found again ----------------------------------------------------------------------


def test_an_unplugged_camera_is_reconnected_and_numbers_count_on(site, caplog):
    made = site([GOOD, GOOD], "absent", "absent", [GOOD, GOOD])
    source = device()
    with caplog.at_level(logging.INFO, "fcn_deploy.camera"):
        frames = take(source, 4)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert source.state.reconnects == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "camera 0: the stream ended; trying again" in caplog.messages[0]
    assert "camera 0: connected again after" in caplog.messages[1]
    assert len(made.opened) == 4
    assert all(capture.released for capture in made.opened)


def test_another_size_after_a_reconnect_is_delivered_and_logged(site, caplog):
    site([GOOD], [np.zeros((8, 4, 3), np.uint8)])
    source = device()
    with caplog.at_level(logging.INFO, "fcn_deploy.camera"):
        sizes = [frame.image.shape[:2] for frame in take(source, 2)]
    assert sizes == [(4, 6), (8, 4)]
    assert source.state.properties["got"]["size"] == [8, 4]
    assert any("now 8x4 at 30 frames a second, YUYV, before 4x6" in message for message in caplog.messages)


def test_another_size_without_a_reconnect_is_noted(site):
    site([GOOD, np.zeros((8, 4, 3), np.uint8)])
    source = device()
    take(source, 2)
    assert source.state.properties["got"]["size"] == [8, 4]


def test_a_missing_camera_is_waited_for(site, caplog):
    site("absent", "absent", [GOOD])
    source = device()
    take(source, 1)
    assert source.state.reconnects == 0
    assert "/dev/video0 does not exist" in source.state.message
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_an_error_of_opencv_is_a_loss(site):
    site([GOOD, cv2.error("OpenCV(5.0) cap.cpp:1: error: (-215) VIDIOC_DQBUF")], [GOOD])
    source = device()
    assert len(take(source, 2)) == 2
    assert source.state.message == "OpenCV failed ((-215) VIDIOC_DQBUF)"


def test_an_error_of_opencv_while_opening_is_tried_again(site):
    site(cv2.error("cannot open"), [GOOD])
    source = device()
    assert len(take(source, 1)) == 1
    assert source.state.message == "it could not be opened (cannot open)"


def test_a_read_that_exceeds_the_timeout_is_a_loss(site):
    made = site([GOOD, 0.35, GOOD, GOOD], [GOOD])
    source = device()
    take(source, 2)
    assert source.state.message == "no frame came for 0.4 s"
    assert len(made.opened) == 2


@pytest.mark.parametrize(
    "bad", [None, np.zeros((4, 6), np.uint16), np.zeros((0, 6, 3), np.uint8)], ids=["none", "uint16", "empty"]
)
def test_damaged_frames_are_skipped(site, bad):
    site([GOOD, bad, bad, GOOD])
    source = device()
    frames = take(source, 2)
    assert [frame.index for frame in frames] == [0, 1]
    assert source.state.reconnects == 0


def test_a_stream_with_damaged_frames_only_is_a_loss(site):
    site([GOOD, *([0.05, None] * 20)], [GOOD])
    source = device()
    take(source, 2)
    assert source.state.reconnects == 1
    assert "no frame could be used: an empty frame came" in source.state.message


def test_frames_buffered_during_the_opening_of_a_url_are_skipped(site):
    old, new = np.zeros((4, 6, 3), np.uint8), GOOD
    site([old, old, old, 0.05, new, new])
    frames = take(open_source("http://camera/1", options=SourceOptions(**QUICK)), 2)
    assert [frame.index for frame in frames] == [0, 1]
    assert all(frame.image is new for frame in frames)


def test_a_url_of_one_picture_is_opened_again_for_each_frame(site):
    site([GOOD])
    source = open_source("http://camera/snapshot.jpg", options=SourceOptions(**QUICK))
    assert len(take(source, 3)) == 3
    assert source.state.reconnects == 2


def test_grey_frames_get_three_channels(site):
    site([np.full((4, 6), 77, np.uint8)])
    assert (take(device(), 1)[0].image == np.full((4, 6, 3), 77)).all()


def test_frames_are_rotated_and_in_the_colour_order_asked_for(site):
    site([GOOD])
    source = open_source("0", "rgb", SourceOptions(rotate=90, **QUICK))
    (frame,) = take(source, 1)
    assert frame.image.shape == (6, 4, 3)
    assert tuple(frame.image[0, 0]) == (30, 20, 10)
    assert source.state.properties["rotate"] == 90


# --- reconnecting off, and given up ------------------------------------------------------------


def test_without_reconnecting_a_missing_camera_is_a_source_error(site):
    site("absent")
    with pytest.raises(SourceError, match="camera 0: /dev/video0 does not exist"):
        take(device(reconnect=False), 1)


def test_without_reconnecting_a_loss_ends_the_source(site):
    made = site([GOOD])
    with pytest.raises(PipelineError, match="camera 0: the stream ended"):
        take(device(reconnect=False), 2)
    assert made.opened[0].released


def test_a_camera_is_given_up_after_the_time_asked_for(site):
    site([GOOD], "absent")
    begun = time.monotonic()
    with pytest.raises(PipelineError, match=r"camera 0 was given up after \d\.\d s without a connection"):
        take(device(give_up=0.2), 2)
    assert 0.2 <= time.monotonic() - begun < 2


def test_a_recording_at_a_url_is_not_opened_again(site):
    site([GOOD, GOOD])
    source = open_source("http://store/clip.mp4", options=SourceOptions(live=False, **QUICK))
    assert len(list(source.frames(threading.Event()))) == 2
    assert source.state.phase == "ended"
    assert not source.live


# --- waits -------------------------------------------------------------------------------------


def waits_of(source, count, monkeypatch):
    """The longest that each of the first waits may be: jitter is taken out."""
    waited = []
    stopping = threading.Event()

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == count:
            stopping.set()
        return stopping.is_set()

    monkeypatch.setattr(live.random, "uniform", lambda low, high: high)
    frames = source.frames(stopping)
    monkeypatch.setattr(stopping, "wait", wait)
    list(frames)
    return waited


def test_waits_double_up_to_the_longest_wait(site, monkeypatch):
    site("absent")
    source = device(first_wait=0.5, longest_wait=3)
    assert waits_of(source, 6, monkeypatch) == [0.5, 1, 2, 3, 3, 3]


def test_waits_grow_for_a_camera_that_is_lost_again_and_again(site, monkeypatch):
    site([GOOD])
    assert waits_of(device(first_wait=0.5, longest_wait=3), 5, monkeypatch) == [0.5, 1, 2, 3, 3]


def test_a_stable_camera_starts_again_with_the_first_wait(site, monkeypatch):
    site("absent", "absent", [GOOD, 0.1, 0.1, GOOD])
    assert waits_of(device(first_wait=0.02, longest_wait=3), 4, monkeypatch) == [0.02, 0.04, 0.02, 0.02]


def test_waits_have_jitter(site, monkeypatch):
    site("absent")
    bounds = []
    monkeypatch.setattr(live.random, "uniform", lambda low, high: bounds.append((low, high)) or 0.001)
    with pytest.raises(PipelineError):
        take(device(give_up=0.05), 1)
    assert set(bounds) == {(0.5, 1.0)}


def test_stopping_ends_the_wait_before_an_attempt_at_once(site):
    site("absent")
    source = device(first_wait=60, longest_wait=60)
    stopping = threading.Event()
    threading.Timer(0.1, stopping.set).start()
    begun = time.monotonic()
    assert list(source.frames(stopping)) == []
    assert time.monotonic() - begun < 1
    assert source.state.phase == "ended"


def test_stopping_does_not_wait_for_an_open_that_hangs(site, monkeypatch):
    made = site([GOOD])
    may_open = threading.Event()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: may_open.wait(20) and made(*given))
    stopping = threading.Event()
    threading.Timer(0.1, stopping.set).start()
    begun = time.monotonic()
    assert list(device().frames(stopping)) == []
    assert time.monotonic() - begun < 1
    may_open.set()
    assert until(lambda: made.opened and made.opened[0].released)


def test_stopping_ends_a_stream_at_the_next_frame(site):
    made = site([GOOD] * 100)
    stopping = threading.Event()
    frames = device().frames(stopping)
    next(frames)
    stopping.set()
    assert list(frames) == []
    assert made.opened[0].released


def until(condition, seconds=5.0):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


# --- asked and got -----------------------------------------------------------------------------


def test_a_device_is_asked_for_its_format_first_and_for_one_buffer(site):
    made = site([GOOD])
    take(device(size=(480, 640), fps=15, pixel_format="MJPG"), 1)
    assert made.opened[0].api == cv2.CAP_V4L2
    assert made.opened[0].settings == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FRAME_WIDTH, 640),
        (cv2.CAP_PROP_FPS, 15),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]


def test_requested_and_actual_properties_are_in_the_state_and_differences_are_logged_once(site, caplog):
    site([GOOD])
    source = device(size=(480, 640), fps=30, pixel_format="MJPG")
    take(source, 3)
    assert source.state.properties == {
        "asked": {"size": [480, 640], "fps": 30, "pixel_format": "MJPG", "color_order": "bgr"},
        "got": {
            "size": [4, 6],
            "fps": 30.0,
            "pixel_format": "YUYV",
            "color_order": "bgr",
            "backend": "V4L2",
        },
        "rotate": 0,
    }
    messages = [message for message in caplog.messages if " gives " in message]
    assert messages == [
        "camera 0 gives size 4x6 instead of 480x640",
        "camera 0 gives pixel_format YUYV instead of MJPG",
    ]


def test_a_url_is_opened_with_timeouts_and_one_decoder_thread(site, monkeypatch):
    made = site([GOOD])
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    take(open_source("rtsp://camera/1", options=SourceOptions(**QUICK)), 1)
    assert made.opened[0].api == cv2.CAP_FFMPEG
    assert made.opened[0].parameters == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 500,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 300,
        cv2.CAP_PROP_N_THREADS: 1,
    }


@pytest.mark.parametrize(
    ("before", "during"), [(None, "rtsp_transport;udp"), ("a;b", "a;b|rtsp_transport;udp")]
)
def test_the_udp_option_is_in_the_environment_only_during_the_open(site, monkeypatch, before, during):
    made = site([GOOD])
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    monkeypatch.delenv(name, raising=False) if before is None else monkeypatch.setenv(name, before)
    seen = []

    def watched(*given):
        seen.append(opencv.os.environ.get(name))
        return made(*given)

    monkeypatch.setattr(cv2, "VideoCapture", watched)
    take(open_source("rtsp://camera/1", options=SourceOptions(transport="udp", **QUICK)), 1)
    assert seen == [during]
    assert opencv.os.environ.get(name) == before


def test_csi_cameras_and_pipelines_are_opened_by_gstreamer(site):
    made = site([GOOD])
    take(open_source("csi://1", options=SourceOptions(rotate=180, **QUICK)), 1)
    take(open_source("videotestsrc ! appsink", options=SourceOptions(rotate=90, **QUICK)), 1)
    assert [capture.api for capture in made.opened] == [cv2.CAP_GSTREAMER] * 2
    assert made.opened[0].target.startswith("nvarguscamerasrc sensor-id=1 ! ")
    assert made.opened[0].parameters == {}  # older builds refuse all that they do not know


def test_a_pipeline_that_hangs_is_abandoned(site):
    made = site([GOOD, 1.0, GOOD], [GOOD])
    source = open_source("videotestsrc ! appsink", options=SourceOptions(**QUICK))
    begun = time.monotonic()
    assert len(take(source, 2)) == 2
    assert time.monotonic() - begun < 0.9
    assert source.state.message == "no frame came for 0.3 s"
    assert not made.opened[0].released
    assert until(lambda: made.opened[0].released)


def test_an_error_inside_a_pipeline_is_a_loss(site):
    site([GOOD, cv2.error("OpenCV(5.0) cap.cpp:1: error: (-215) pipeline")], [GOOD])
    source = open_source("videotestsrc ! appsink", options=SourceOptions(**QUICK))
    assert len(take(source, 2)) == 2
    assert source.state.message == "OpenCV failed ((-215) pipeline)"


def test_an_open_that_hangs_is_abandoned(site, monkeypatch):
    site([GOOD])
    monkeypatch.setattr(live, "_OPEN_MARGIN", 0.0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: threading.Event().wait(30))
    with pytest.raises(SourceError, match=r"camera 0: it did not answer within 0\.\d s"):
        take(device(reconnect=False, open_timeout=0.2), 1)


def test_frames_that_the_jetson_rotated_are_not_rotated_again(site):
    site([GOOD])
    assert take(open_source("csi://0", options=SourceOptions(rotate=90, **QUICK)), 1)[0].image.shape == (
        4,
        6,
        3,
    )


# --- what this OpenCV can ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["csi://0", "videotestsrc ! appsink"])
def test_without_gstreamer_the_message_says_how_to_get_it(monkeypatch, what):
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda api: api != cv2.CAP_GSTREAMER)
    with pytest.raises(BackendUnavailable, match=r"built without GStreamer; .*JetPack's OpenCV"):
        open_source(what)
    assert "without GStreamer" in video_backends()["GStreamer"]
    assert video_backends()["FFmpeg"] is None


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependency, match=r"fcn-deploy\[opencv\]"):
        open_source("rtsp://camera/1")
    monkeypatch.setattr(opencv, "installed", lambda module: False)
    assert set(video_backends().values()) == {
        "OpenCV is not installed; run: pip install 'fcn-deploy[opencv]'"
    }
