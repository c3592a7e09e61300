"""The preview: what a browser gets, who is refused, and that nobody can hold up the pipeline."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deliveries import delivery
from PIL import Image

from fcn_deploy.camera import IterableSource, Pipeline, Preview
from fcn_deploy.camera.sinks.preview.content import PreviewContent
from fcn_deploy.camera.sinks.preview.server import MAX_STREAMS
from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime

BOUNDARY = b"--frame\r\n"


@pytest.fixture
def preview() -> Iterator[Preview]:
    with Preview(port=0, alpha=1.0, fps=200) as made:
        yield made


def get(
    preview: Preview, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", preview.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class Viewer:
    """Somebody with the stream open."""

    def __init__(self, preview: Preview, path: str = "/stream.mjpg") -> None:
        self._socket = socket.create_connection(("127.0.0.1", preview.port), timeout=10)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.file = self._socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])

    def pictures(self) -> Iterator[np.ndarray]:
        while self.file.readline() not in (BOUNDARY, b""):
            pass
        while self.file.readline().startswith(b"Content-Type"):
            length = int(self.file.readline().split()[1])
            self.file.readline()
            yield np.asarray(Image.open(io.BytesIO(self.file.read(length))))
            assert self.file.readline() == b"\r\n" and self.file.readline() == BOUNDARY

    def close(self) -> None:
        self.file.close()
        self._socket.close()


def until(true) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_page_needs_nothing_from_elsewhere(preview: Preview) -> None:
    status, headers, body = get(preview, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert b"stream.mjpg" in body and b"statistics.json" in body
    assert b"https://" not in body
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_a_snapshot_shows_the_palettes_colour(preview: Preview) -> None:
    preview(delivery(label=3, size=(240, 320)))
    status, headers, body = get(preview, "/snapshot.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    picture = np.asarray(Image.open(io.BytesIO(body))).astype(int)
    assert picture.shape == (240, 320, 3)
    assert np.abs(picture[10, 310] - CAMVID_PALETTE[3]).max() < 12


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_a_stream_shows_the_newest_frames(preview: Preview, order: str) -> None:
    preview(delivery(label=3, order=order))
    viewer = Viewer(preview)
    pictures = viewer.pictures()
    for label in (3, 5, 8):
        preview(delivery(label=label, order=order))
        # The first one may still be of the frame before.
        assert any(
            np.abs(next(pictures)[2, 2].astype(int) - CAMVID_PALETTE[label]).max() < 16 for _ in range(2)
        )
        if label != 8:
            preview(delivery(label=label, order=order))
    viewer.close()


def test_a_second_snapshot_shows_the_newest_frame(preview: Preview) -> None:
    for label in (3, 8):
        preview(delivery(label=label))
        time.sleep(0.05)  # more than the gap between two pictures
        picture = np.asarray(Image.open(io.BytesIO(get(preview, "/snapshot.jpg")[2]))).astype(int)
        assert np.abs(picture[2, 2] - CAMVID_PALETTE[label]).max() < 16


def test_nothing_is_drawn_without_viewers(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(PreviewContent, "_encode", lambda _, camera: drawn.append(camera))
    for index in range(50):
        preview(delivery(index))
    assert not drawn


def test_wide_frames_are_subsampled(preview: Preview) -> None:
    preview(delivery(size=(60, 3000)))
    assert Image.open(io.BytesIO(get(preview, "/snapshot.jpg")[2])).size == (1000, 20)


def test_each_camera_has_its_own_picture(preview: Preview) -> None:
    preview(delivery(label=3, size=(20, 30)))
    preview(delivery(label=5, camera=1, size=(40, 50)))
    assert Image.open(io.BytesIO(get(preview, "/snapshot.jpg?camera=1")[2])).size == (50, 40)
    assert json.loads(get(preview, "/statistics.json")[2])["preview"]["cameras"] == [0, 1]


def test_statistics_and_metrics_come_from_the_pipeline(preview: Preview) -> None:
    assert get(preview, "/metrics")[0] == 404
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        frames = [np.zeros((8, 8, 3), np.uint8)] * 3
        pipeline = Pipeline(IterableSource(frames), segmenter, [lambda each: Preview.__call__(preview, each)])
        preview.statistics = pipeline.statistics
        pipeline.run()
    report = json.loads(get(preview, "/statistics.json")[2])
    assert report["delivered"] == 3
    assert report["preview"]["classes"][2]["share"] == 1
    status, headers, body = get(preview, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'fcn_deploy_frames_total{camera="0",state="delivered"} 3\n' in body


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/none", "GET", {}, 404),
        ("/../../etc/passwd", "GET", {}, 404),
        ("/preview.html", "GET", {}, 404),
        ("/snapshot.jpg?camera=-1", "GET", {}, 400),
        ("/snapshot.jpg?camera=x", "GET", {}, 400),
        ("/", "POST", {}, 405),
        ("/", "DELETE", {}, 405),
        ("/", "GET", {"Host": "evil.example"}, 403),
        ("/statistics.json", "GET", {"Host": "evil.example:80"}, 403),
        ("/", "HEAD", {}, 200),
    ],
)
def test_requests_that_are_refused(
    preview: Preview, path: str, method: str, headers: dict[str, str], status: int
) -> None:
    assert get(preview, path, method, **headers)[0] == status


def test_it_listens_on_loopback_by_default(preview: Preview) -> None:
    assert preview.host == "127.0.0.1" and preview.url == f"http://127.0.0.1:{preview.port}/"
    own = [each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in (each for each in own if not each.startswith("127.")):
        with pytest.raises(OSError), socket.create_connection((address, preview.port), timeout=2):
            pass


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"port": 70000}, "from 0 to 65535"),
        ({"host": "192.0.2.1"}, "no address of this machine"),
        ({"fps": 0}, "pictures a second"),
        ({"alpha": 2.0}, "alpha"),
    ],
)
def test_wrong_calls(arguments, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        Preview(**{"port": 0, **arguments})


def test_a_port_in_use_is_an_error(preview: Preview) -> None:
    with pytest.raises(UsageError, match=f"port {preview.port} on 127.0.0.1 is in use"):
        Preview(port=preview.port)


def test_a_viewer_that_does_not_read_delays_nobody(preview: Preview) -> None:
    idle = [Viewer(preview) for _ in range(3)]
    noise = np.random.default_rng(0)
    slowest = 0.0
    for index in range(200):
        given = delivery(index, size=(240, 320))
        given.frame.image[:] = noise.integers(0, 256, given.frame.image.shape)
        began = time.perf_counter()
        preview(given)
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 2  # no time-out of 10 s was waited for: another thread draws and sends
    assert get(preview, "/snapshot.jpg")[0] == 200
    for viewer in idle:
        viewer.close()


def test_the_number_of_streams_is_limited(preview: Preview) -> None:
    preview(delivery())
    viewers = [Viewer(preview) for _ in range(MAX_STREAMS)]
    assert {viewer.status for viewer in viewers} == {200}
    one_more = Viewer(preview)
    assert one_more.status == 503
    one_more.close()
    viewers.pop().close()
    until(lambda: json.loads(get(preview, "/statistics.json")[2])["preview"]["watching"] < MAX_STREAMS)
    again = Viewer(preview)
    assert again.status == 200
    for viewer in [*viewers, again]:
        viewer.close()


def test_closing_ends_every_stream_and_frees_the_port() -> None:
    preview = Preview(port=0)
    preview(delivery())
    viewers = [Viewer(preview) for _ in range(3)]
    began = time.monotonic()
    preview.close()
    preview.close()
    assert time.monotonic() - began < 3
    for viewer in viewers:
        viewer.file.read()  # until its end
        viewer.close()
    Preview(port=preview.port).close()
    until(lambda: not any(thread.name == "fcn-deploy-preview" for thread in threading.enumerate()))


def test_a_snapshot_before_the_first_frame_is_refused(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.camera.sinks.preview.handler._FIRST_FRAME_TIMEOUT", 0.05)
    status, headers, body = get(preview, "/snapshot.jpg")
    assert status == 503 and b"no frame yet" in body and headers["Retry-After"] == "1"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_real_browser_shows_it(preview: Preview, tmp_path: Path) -> None:
    """The page is filled by its script: picture, numbers and classes."""
    shot = tmp_path / "shot.png"
    stopping = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        while not stopping.wait(0.05):
            yield np.full((240, 320, 3), 90, np.uint8)

    with Segmenter(FakeRuntime(rule=8)) as segmenter:
        pipeline = Pipeline(IterableSource(frames(), live=True), segmenter, [preview])
        preview.statistics = pipeline.statistics
        running = threading.Thread(target=pipeline.run)
        running.start()
        try:
            call = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800"]
            call += ["--timeout=5000", f"--screenshot={shot}", preview.url]
            subprocess.run(call, check=True, capture_output=True, timeout=60)
        finally:
            stopping.set()
            running.join()
    picture = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    drawn = np.abs(picture[80:600, 30:880] - CAMVID_PALETTE[8]).max(axis=2) < 16
    assert drawn.mean() > 0.5
