"""Real streams on loopback: MJPEG over HTTP from this process, H.264 over RTSP where GStreamer is."""

from __future__ import annotations

import io
import itertools
import logging
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import drawn_time
import numpy as np
import pytest
import rtsp_server
from hypothesis import given
from hypothesis import strategies as st
from mjpeg_server import Camera
from PIL import Image

from fcn_deploy.camera.sources import live
from fcn_deploy.camera.sources.opening import open_source
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.reachability import host_unreachable
from fcn_deploy.errors import PipelineError, SourceError

pytest.importorskip("cv2")

OPTIONS = SourceOptions(first_wait=0.05, longest_wait=0.1, open_timeout=1.0, read_timeout=0.6)
SMALL = drawn_time.SMALLEST

pytestmark = pytest.mark.slow  # they wait for real servers and real time-outs


@pytest.fixture
def camera():
    with Camera(SMALL) as served:
        yield served


@contextmanager
def watching(url, options=OPTIONS, **more):
    """A source that is read in a thread, as a pipeline does: its frames, and the source itself."""
    source = open_source(url, options=options, **more)
    reader = Reader(source)
    try:
        yield reader
    finally:
        reader.stop()


class Reader:
    def __init__(self, source):
        self.source = source
        self.frames, self.ages = [], []
        self.error = None
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        try:
            for frame in self.source.frames(self.stopping):
                drawn = drawn_time.read(frame.image)
                self.ages.append(None if drawn is None else frame.captured - drawn)
                self.frames.append(frame)
        except Exception as exc:
            self.error = exc

    def more(self, count=5, seconds=10.0):
        """Wait for so many further frames, and return them."""
        before = len(self.frames)
        limit = time.monotonic() + seconds
        while len(self.frames) < before + count:
            assert self.error is None, self.error
            assert time.monotonic() < limit, f"only {len(self.frames) - before} frames; {self.source.state}"
            time.sleep(0.01)
        return self.frames[before:]

    def stop(self):
        """Seconds that the source took to end."""
        self.stopping.set()
        begun = time.monotonic()
        self._thread.join(10)
        assert not self._thread.is_alive()
        return time.monotonic() - begun


# --- the stamp itself --------------------------------------------------------------------------


@given(
    seconds=st.floats(0, 1e8),
    height=st.integers(SMALL[0], 200),
    width=st.integers(SMALL[1], 400),
    quality=st.integers(30, 95),
)
def test_a_drawn_time_survives_compression(seconds, height, width, quality):
    picture = drawn_time.Clip((height, width)).frame(seconds)
    file = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(file, "JPEG", quality=quality)
    assert drawn_time.read(np.asarray(Image.open(file))) == pytest.approx(seconds, abs=0.00051)


def test_a_picture_without_a_drawn_time_gives_none():
    assert drawn_time.read(np.zeros((64, 192, 3), np.uint8)) is None
    assert drawn_time.read(np.zeros((4, 4), np.uint8)) is None


# --- MJPEG over HTTP ---------------------------------------------------------------------------


def test_a_stream_is_read_without_lag(camera):
    with watching(camera.url) as reader:
        frames = reader.more(20)
        assert frames[0].image.shape == (*SMALL, 3)
        assert max(reader.ages[5:]) < 0.25
        got = reader.source.state.properties["got"]
    assert (got["backend"], got["decoder_threads"], got["pixel_format"]) == ("FFMPEG", 1, "MJPG")
    assert [frame.index for frame in reader.frames] == list(range(len(reader.frames)))


def test_a_server_restarted_with_another_size_is_reconnected(camera, caplog):
    with caplog.at_level(logging.INFO, "fcn_deploy.camera"), watching(camera.url) as reader:
        reader.more()
        camera.stop()
        camera.size = (96, 256)
        time.sleep(0.2)
        camera.start()
        frames = reader.more()
        assert frames[-1].image.shape == (96, 256, 3)
        assert max(reader.ages[-3:]) < 0.25
    assert reader.source.state.reconnects == 1
    assert [frame.index for frame in reader.frames] == list(range(len(reader.frames)))
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


def test_a_stalled_stream_is_detected_and_reconnected(camera):
    with watching(camera.url) as reader:
        reader.more()
        begun = time.monotonic()
        camera.stalled.set()
        while not reader.source.state.message:
            assert time.monotonic() - begun < 5
            time.sleep(0.01)
        assert time.monotonic() - begun < 3 * OPTIONS.read_timeout
        camera.stalled.clear()
        reader.more()
    assert "no frame came for" in reader.source.state.message
    assert reader.source.state.reconnects == 1


def test_stopping_a_stalled_stream_takes_at_most_the_read_timeout(camera):
    with watching(camera.url) as reader:
        reader.more()
        camera.stalled.set()
        time.sleep(0.1)
        assert reader.stop() < 2 * OPTIONS.read_timeout


def test_stopping_while_a_server_does_not_respond_takes_no_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = SourceOptions(open_timeout=2)
        with watching(f"http://127.0.0.1:{silent.getsockname()[1]}/x", options) as reader:
            time.sleep(0.2)
            assert reader.stop() < 0.5
    time.sleep(0.01)


def test_reachability_of_a_host_is_found_without_opencv(camera):
    stopping = threading.Event()
    assert not host_unreachable(camera.url, stopping, 1)
    assert not host_unreachable(
        f"rtsp://joe:p/w@127.0.0.1:{rtsp_server.free_port()}/x", stopping, 1
    )  # refused
    assert not host_unreachable("udp://127.0.0.1:9", stopping, 1)
    assert not host_unreachable("rtsp://[broken/x", stopping, 1)
    with full_server() as port:
        begun = time.monotonic()
        assert host_unreachable(f"http://127.0.0.1:{port}/x", stopping, 0.2)
        assert 0.2 <= time.monotonic() - begun < 1
        stopping.set()
        assert host_unreachable(f"http://127.0.0.1:{port}/x", stopping, 60)


@contextmanager
def full_server():
    """The port of a server whose queue is full, so that it answers as a host does that is off: never."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_opencv_does_not_hang_twice_on_an_unreachable_host(monkeypatch):
    opened = []
    with full_server() as port:
        real = live.open_capture
        monkeypatch.setattr(live, "open_capture", lambda *given: opened.append(given) or real(*given))
        options = SourceOptions(open_timeout=0.2, first_wait=0.01, longest_wait=0.01, give_up=0.9)
        with pytest.raises(PipelineError, match=r"given up .* it did not answer within 0\.2 s"):
            list(open_source(f"http://127.0.0.1:{port}/x", options=options).frames(threading.Event()))
    assert len(opened) == 1


LEAVE_EARLY = """
import sys, threading
from fcn_deploy.camera import SourceOptions, open_source
stopping = threading.Event()
threading.Timer(0.3, stopping.set).start()
list(open_source(sys.argv[1], options=SourceOptions(open_timeout=1.5)).frames(stopping))
print("stopped")
"""


def test_a_process_that_ends_while_a_stream_is_opened_is_not_aborted():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        done = subprocess.run([sys.executable, "-c", LEAVE_EARLY, url], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_truncated_pictures_do_not_end_a_stream(camera, share):
    camera.spoil = lambda jpeg, index: jpeg[: int(len(jpeg) * share)] if index % 3 == 1 else jpeg
    with watching(camera.url) as reader:
        reader.more(15)
        assert sum(age is not None and age < 0.5 for age in reader.ages) >= 8
    assert reader.source.state.reconnects == 0


def test_a_grey_stream_has_three_channels(camera):
    camera.grey = True
    with watching(camera.url, color_order="rgb") as reader:
        (frame, *_) = reader.more()
    assert frame.image.shape == (*SMALL, 3)


def test_a_password_is_in_no_log_message_or_output(camera, caplog, capfd):
    url = camera.url.replace("://", "://joe:SECRET@")
    camera.spoil = lambda jpeg, index: jpeg if index < 8 else jpeg[:30]
    with caplog.at_level(logging.DEBUG), watching(url) as reader:
        reader.more()
        time.sleep(0.3)
        camera.stop()
        time.sleep(0.3)
        shown = [repr(reader.source.state), reader.source.name, caplog.text]
    with pytest.raises(SourceError) as refused:
        list(open_source(url, options=SourceOptions(reconnect=False)).frames(threading.Event()))
    output = capfd.readouterr()
    for text in (*shown, str(refused.value), output.out, output.err):
        assert "SECRET" not in text
    assert "joe" not in str(refused.value)


READ_TEN = """
import itertools, sys, threading
from fcn_deploy.camera import open_source
print(len(list(itertools.islice(open_source(sys.argv[1]).frames(threading.Event()), 10))))
"""


def test_errors_of_the_decoder_are_not_printed(camera):
    camera.spoil = lambda jpeg, index: jpeg[:-100]
    # In a process of its own, because FFmpeg takes its log level when it is first used.
    done = subprocess.run([sys.executable, "-c", READ_TEN, camera.url], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("10\n", "")


def test_without_reconnecting_the_end_of_a_stream_is_an_error(camera):
    options = SourceOptions(reconnect=False, read_timeout=0.6)
    frames = open_source(camera.url, options=options).frames(threading.Event())
    list(itertools.islice(frames, 3))
    camera.stop()
    with pytest.raises(PipelineError, match=r"stream\.mjpg: the stream ended"):
        list(frames)


# --- H.264 over RTSP ---------------------------------------------------------------------------


@pytest.fixture
def rtsp():
    if reason := rtsp_server.problem():
        pytest.skip(f"the RTSP server {reason}")
    with rtsp_server.Server(size=(96, 192)) as server:
        yield server


RTSP = SourceOptions(first_wait=0.1, longest_wait=0.2, open_timeout=3.0, read_timeout=1.0)


def test_a_restarted_rtsp_server_is_reconnected_without_lag(rtsp):
    with watching(rtsp.url, RTSP) as reader:
        reader.more(10)
        rtsp.kill()
        rtsp.size = (128, 256)
        rtsp.start()
        frames = reader.more(10)
        assert frames[-1].image.shape == (128, 256, 3)
        assert max(reader.ages[-5:]) < 0.3
    assert reader.source.state.reconnects == 1
    assert reader.source.state.properties["got"]["pixel_format"] == "h264"


@pytest.mark.slow
def test_a_frozen_rtsp_server_is_detected(rtsp):
    with watching(rtsp.url, RTSP) as reader:
        reader.more(3)
        rtsp.freeze()
        begun = time.monotonic()
        while not reader.source.state.message:
            assert time.monotonic() - begun < 6
            time.sleep(0.02)
        rtsp.thaw()
        reader.more(3)
    assert "no frame came for" in reader.source.state.message


@pytest.mark.slow
def test_rtsp_over_udp(rtsp):
    options = SourceOptions(transport="udp", open_timeout=5.0, read_timeout=1.0)
    with watching(rtsp.url, options) as reader:
        reader.more(5)
        assert any(value for value in udp_ports())
        assert max(reader.ages[-3:]) < 0.3


def udp_ports():
    """Local UDP ports that are bound, from the kernel."""
    with open("/proc/net/udp", encoding="ascii") as table:
        return [int(line.split()[1].partition(":")[2], 16) for line in list(table)[1:]]


# --- GStreamer, with an OpenCV that has it -----------------------------------------------------

GSTREAMER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from fcn_deploy.camera import SourceOptions, open_source
grey = "videotestsrc num-buffers=5 ! video/x-raw,format=GRAY8,width=64,height=48 ! appsink"
source = open_source(grey, options=SourceOptions(live=False, rotate=90))
print([frame.image.shape for frame in source.frames(threading.Event())])
stalls = "videotestsrc ! valve name=v drop=true ! video/x-raw,width=64,height=48 ! appsink"
source = open_source(stalls, options=SourceOptions(open_timeout=0.5, reconnect=False))
try:
    next(source.frames(threading.Event()))
except Exception as exc:
    print(type(exc).__name__, str(exc).rpartition(": ")[2])
"""


@pytest.mark.slow
def test_gstreamer_pipelines_run_and_stalled_ones_are_detected():
    python = rtsp_server.SYSTEM_PYTHON
    asked = "import cv2, sys; sys.exit(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))"
    if rtsp_server.problem() or subprocess.run([python, "-c", asked], capture_output=True).returncode:
        pytest.skip("needs Debian's python3-opencv, which has GStreamer")
    root = str(Path(rtsp_server.__file__).parents[2])
    done = subprocess.run([python, "-c", GSTREAMER, root], capture_output=True, text=True, timeout=60)
    frames, stalled = done.stdout.splitlines()
    assert frames == str([(64, 48, 3)] * 5)
    assert stalled.startswith("SourceError it did not answer within 1.5 s")
