"""run on what is not a plain file: several sources, live pace, streams of labels, a browser's preview."""

from __future__ import annotations

import inspect
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.camera import SourceOptions
from fcn_deploy.cli import outputs
from fcn_deploy.cli.run import run

cv2 = pytest.importorskip("cv2")
FCN_DEPLOY = (sys.executable, "-c", "from fcn_deploy.cli import main; main()")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames at 20 a second: red, so that each pixel's label is 2."""
    path = tmp_path / "clip.avi"
    with outputs.video_file(path, 20.0) as append:
        for _ in range(10):
            append(np.tile(np.array([220, 10, 10], np.uint8), (32, 48, 1)))
    return path


def test_several_sources_are_several_cameras(cli, artefact: Path, clip: Path, images: Path) -> None:
    out = clip.with_name("overlay.mp4")
    result = cli(
        "run", artefact, clip, images, "--overlay", out, "--masks", clip.with_name("labels"), "--json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [camera["delivered"] for camera in report["statistics"]["cameras"]] == [10, 3]
    assert [source["name"] for source in report["sources"]] == [str(clip), str(images)]
    assert clip.with_name("overlay.0.mp4").exists() and clip.with_name("overlay.1.mp4").exists()
    assert len(list(clip.with_name("labels").joinpath("camera0").iterdir())) == 10
    assert clip.with_name("labels").joinpath("camera1", "a.png").exists()


def test_real_time_takes_as_long_as_the_recording(cli, artefact: Path, clip: Path) -> None:
    report = json.loads(cli("run", artefact, clip, "--real-time", "--json").stdout)
    assert report["seconds"] >= 0.45  # ten frames, nine gaps of 50 ms
    now = report["statistics"]
    assert now["captured"] == 10 == now["delivered"] + now["dropped"]


def test_frames_are_rotated_and_smoothed(cli, artefact: Path, clip: Path) -> None:
    labels = clip.with_name("labels")
    result = cli("run", artefact, clip, "--rotate", 90, "--smooth", 3, "--masks", labels)
    assert result.exit_code == 0, result.output
    assert np.asarray(Image.open(labels / "000000.png")).shape == (48, 32)


def test_raw_labels_are_all_that_is_on_stdout(artefact: Path, clip: Path) -> None:
    call = [*FCN_DEPLOY, "run", str(artefact), str(clip), "--raw", "-"]
    done = subprocess.run(call, capture_output=True, timeout=60, check=True)
    stream = io.BytesIO(done.stdout)
    for _ in range(10):
        assert [stream.readline() for _ in range(3)] == [b"P5\n", b"48 32\n", b"255\n"]
        assert set(stream.read(48 * 32)) == {2}
    assert stream.read() == b""
    assert b"10 frames in" in done.stderr


def test_a_file_that_is_shorter_than_it_says_is_a_warning(cli, artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    noise = np.random.default_rng(0)
    with outputs.video_file(path, 20.0) as append:
        for _ in range(12):
            append(noise.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    if not (whole := path.read_bytes()).startswith(b"RIFF"):
        pytest.skip("this OpenCV writes no AVI")
    path.write_bytes(whole[: int(len(whole) * 0.7)])
    result = cli("run", artefact, path, "--overlay", tmp_path / "overlay.mp4")
    assert result.exit_code == 0, result.output
    message = next(line for line in result.stderr.splitlines() if line.startswith("Warning: "))
    delivered = int(result.stdout.split(" frame")[0])
    assert f"states 12 frames and gave {delivered}" in message
    assert 0 < delivered < 12


def test_one_lost_source_leaves_the_other_running_under_continue(
    cli, artefact: Path, clip: Path, images: Path
) -> None:
    (images / "b.png").write_bytes(b"no picture")
    result = cli("run", artefact, images, clip, "--on-error", "continue", "--json")
    assert result.exit_code == 0, result.output
    assert "b.png cannot be read" in result.stderr
    lost, whole = json.loads(result.stdout)["statistics"]["cameras"]
    assert (lost["delivered"], whole["delivered"]) == (1, 10)
    assert "b.png" in lost["message"]


def test_camera_options_for_a_file_give_a_warning(cli, artefact: Path, clip: Path) -> None:
    result = cli("run", artefact, clip, "--size", "16x16", "--fps", "5")
    assert result.exit_code == 0
    assert "clip.avi is a file: --size, --fps is for cameras and is ignored" in result.stderr


def test_a_camera_that_is_given_up_ends_the_run(fails, artefact: Path) -> None:
    message = fails(1, "run", artefact, "rtsp://viewer:secret@127.0.0.1:9/none", "--give-up", "0.1")
    assert "was given up after" in message and "secret" not in message


def test_the_default_read_timeout_is_the_one_of_the_api() -> None:
    assert inspect.signature(run).parameters["read_timeout"].default == SourceOptions().read_timeout


def test_a_camera_without_frames_is_lost_after_the_read_timeout(cli, artefact: Path) -> None:
    """One that sends a frame, then nothing, and takes nobody after that."""
    picture = io.BytesIO()
    Image.new("RGB", (48, 32), (200, 0, 0)).save(picture, "JPEG")
    jpeg, over = picture.getvalue(), threading.Event()
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/stream.mjpg"

    def serve() -> None:
        connection = listening.accept()[0]
        listening.close()
        connection.sendall(head + 3 * part)
        over.wait(30)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        result = cli("run", artefact, url, "--read-timeout", "0.4", "--give-up", "0.1")
    finally:
        over.set()
    assert result.exit_code == 1
    assert "no frame came for 0.4 s" in result.stderr and "was given up after" in result.stderr


def test_statistics_are_logged_at_the_interval(cli, artefact: Path, clip: Path) -> None:
    result = cli("run", artefact, clip, "--real-time", "--log-every", "0.1")
    assert sum("frames" in line or "delivered" in line for line in result.stderr.splitlines()) >= 2


def test_the_preview_is_served_while_it_runs(artefact: Path, clip: Path, tmp_path: Path) -> None:
    """Twenty seconds of frames, and a look at them."""
    folder = tmp_path / "many"
    folder.mkdir()
    Image.new("RGB", (48, 32), (200, 0, 0)).save(tmp_path / "one.png")
    for index in range(400):
        (folder / f"{index:03d}.png").symlink_to(tmp_path / "one.png")
    process = subprocess.Popen(
        [*FCN_DEPLOY, "run", str(artefact), str(folder), "--serve", "0", "--real-time", "--fps", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}snapshot.jpg", timeout=20) as answer:
            assert np.asarray(Image.open(io.BytesIO(answer.read()))).shape == (32, 48, 3)
        with urllib.request.urlopen(f"{url}statistics.json", timeout=20) as answer:
            assert json.load(answer)["delivered"] >= 1
        process.terminate()
        began = time.monotonic()
        message, _ = process.communicate(timeout=20)
        assert process.returncode == 143 and time.monotonic() - began < 5
        assert "Interrupted" in message


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("ftp://camera/x",), "unknown scheme"),
        (("csi://left",), "csi://0"),
        (("/dev/video987", "--give-up", "0.1"), "video987"),
        (("videotestsrc ! appsink", "--give-up", "0.1"), "GStreamer"),
        (("{image}", "--serve", "http"), "expected a port"),
        (("{image}", "--serve", "99999"), "expected a port"),
        (("{image}", "--serve", "192.0.2.1:0"), "no address of this machine"),
        (("{image}", "--size", "480"), "--size 480: expected height x width"),
        (("{image}", "--rotate", "45"), "rotate must be one of"),
        (("{image}", "--pixel-format", "MJPEG"), "four characters"),
        (("{image}", "--raw", "-", "--json"), "both write to stdout"),
        (("{image}", "--raw", "{image}"), "would overwrite"),
        (("{images}", "--real-time"), "have no rate"),
        (("",), "the source is empty"),
        (("192.0.2.7",), "or a URL such as rtsp://"),
        (("{image}", "--masks", "{images}.png"), "expected a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_calls(cli, artefact: Path, image: Path, images: Path, words, part: str) -> None:
    result = cli("run", artefact, *(word.format(image=image, images=images) for word in words))
    assert result.exit_code in (1, 2)
    assert part in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
