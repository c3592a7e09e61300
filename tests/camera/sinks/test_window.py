"""The window's keys, on a stand-in for OpenCV's windows: there is no display where tests run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deliveries import delivery
from PIL import Image

from fcn_deploy.camera.sinks import window
from fcn_deploy.camera.sinks.base import StopPipeline
from fcn_deploy.camera.sinks.window import Window
from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.errors import BackendUnavailable

NONE = -1


class Windows:
    """What the window calls of OpenCV; keys come from a list, then none any more."""

    WINDOW_NORMAL, WINDOW_KEEPRATIO, WINDOW_GUI_NORMAL, WND_PROP_VISIBLE = 0, 0, 16, 4

    class error(Exception):
        pass

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.open: list[str] = []
        self.shown: list[tuple[str, np.ndarray]] = []
        self.visible = 1.0
        self.sizes: list[tuple[str, int, int]] = []

    def namedWindow(self, title: str, flags: int) -> None:
        self.open.append(title)

    def destroyWindow(self, title: str) -> None:
        if title not in self.open:
            raise self.error
        self.open.remove(title)

    def resizeWindow(self, title: str, width: int, height: int) -> None:
        self.sizes.append((title, width, height))

    def imshow(self, title: str, picture: np.ndarray) -> None:
        self.shown.append((title, picture.copy()))

    def waitKey(self, patience: int) -> int:
        return self.keys.pop(0) if self.keys else NONE

    def getWindowProperty(self, title: str, what: int) -> float:
        return self.visible


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    stand_in = Windows()
    require = window.require
    monkeypatch.setattr(
        window, "require", lambda name, **kw: stand_in if name == "cv2" else require(name, **kw)
    )
    monkeypatch.setenv("DISPLAY", ":0")
    return stand_in


def color(shown: tuple[str, np.ndarray]) -> tuple[int, ...]:
    """R, G, B of a corner where no legend is."""
    return tuple(int(value) for value in shown[1][0, -1, ::-1])


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_it_shows_the_overlay_in_the_right_colours(windows: Windows, order: str) -> None:
    with Window(alpha=1.0, legend=False) as window:
        window(delivery(label=3, order=order))
        assert color(windows.shown[-1]) == CAMVID_PALETTE[3]
    assert windows.open == []
    window.close()  # twice is harmless


def test_a_new_window_has_the_frames_size_up_to_a_limit(windows: Windows) -> None:
    with Window(cameras=2) as window:
        for _ in range(2):  # then its size is the user's
            window(delivery(size=(360, 480)))
            window(delivery(size=(1440, 1920), camera=1))
    assert windows.sizes == [("fcn-deploy 0", 480, 360), ("fcn-deploy 1", 960, 720)]


@pytest.mark.parametrize("key", [ord("q"), 27])
def test_q_and_escape_end_the_pipeline(windows: Windows, key: int) -> None:
    windows.keys = [key]
    with Window() as window, pytest.raises(StopPipeline):
        window(delivery())


def test_closing_the_window_ends_the_pipeline(windows: Windows) -> None:
    windows.visible = 0.0
    with Window() as window, pytest.raises(StopPipeline):
        window(delivery())


def test_o_hides_and_shows_the_labels(windows: Windows) -> None:
    with Window(alpha=1.0, legend=False) as window:
        for expected in ((0, 0, 0), CAMVID_PALETTE[3]):
            windows.keys = [ord("o")]
            window(delivery(label=3))
            assert color(windows.shown[-1]) == expected


def test_space_pauses_and_resumes(windows: Windows) -> None:
    windows.keys = [ord(" "), NONE, NONE, ord("x"), ord(" "), ord("q")]
    with Window() as window:
        window(delivery())
        assert windows.keys == [ord("q")]


def test_a_paused_window_can_still_be_closed(windows: Windows) -> None:
    windows.keys = [ord(" "), NONE, ord("q")]
    with Window() as window, pytest.raises(StopPipeline):
        window(delivery())


def test_a_held_image_stays_until_a_key(windows: Windows) -> None:
    windows.keys = [NONE, NONE, ord("o"), NONE, ord("x"), ord("q")]
    with Window(hold=True) as window:
        window(delivery())
        assert windows.keys == [ord("q")]


def test_s_saves_the_shown_picture_under_an_unused_name(windows: Windows, tmp_path: Path) -> None:
    with Window(alpha=1.0, legend=False, pictures=tmp_path) as window:
        for _ in range(2):
            windows.keys = [ord("s")]
            window(delivery(7, label=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overlay-000007-1.png", "overlay-000007.png"]
    assert tuple(np.asarray(Image.open(tmp_path / "overlay-000007.png"))[0, 0]) == CAMVID_PALETTE[3]


def test_a_failed_save_is_logged_and_the_run_goes_on(windows: Windows, tmp_path: Path, caplog: Any) -> None:
    windows.keys = [ord("s")]
    with Window(pictures=tmp_path / "none") as window:
        window(delivery())
    assert "nothing was saved" in caplog.text


def test_each_camera_has_a_window(windows: Windows) -> None:
    with Window(cameras=2) as window:
        window(delivery())
        window(delivery(camera=1))
        assert [title for title, _ in windows.shown] == windows.open == ["fcn-deploy 0", "fcn-deploy 1"]


def test_without_a_display_the_error_says_what_to_use(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(BackendUnavailable, match=r"use --overlay instead, or --serve"):
        Window()


def test_an_opencv_without_windows_is_an_error(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise windows.error

    monkeypatch.setattr(windows, "namedWindow", refuse)
    with pytest.raises(BackendUnavailable, match="headless"):
        Window()


@pytest.mark.skipif(not shutil.which("xvfb-run"), reason="xvfb-run is not installed")
def test_a_real_window_shows_the_overlay() -> None:
    """On a display in memory, with the windows of the OpenCV that is installed."""
    shown = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", REAL],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "built without windows" in shown.stderr:
        pytest.skip("opencv-python-headless is installed")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == ["64", "48"]


REAL = """
import cv2
from deliveries import delivery
from fcn_deploy.camera.sinks import Window

with Window() as window:
    for index in range(3):
        window(delivery(index, size=(480, 640)))
        cv2.waitKey(50)
    print(*(side // 10 for side in cv2.getWindowImageRect("fcn-deploy")[2:]))
"""
