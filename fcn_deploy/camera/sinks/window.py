"""A window on the screen."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import final

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink, StopPipeline
from fcn_deploy.camera.sinks.files import unused_path, write_picture
from fcn_deploy.draw import Overlay, Picture
from fcn_deploy.errors import BackendUnavailable, UsageError
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")

_KEY_POLL_MS = 30
"""Milliseconds between two checks for a key while a picture is held or paused."""

_HOLDING_KEYS = (255, ord("o"), ord("s"))
"""Keys after which a held picture stays; 255 is no key."""

_MAX_WINDOW = (1280, 720)
"""Width and height of a new window at most."""


@final
class Window(Sink):
    """A window for each camera that shows the overlay.

    Keys: q or Esc ends the pipeline, as closing the window does; space pauses and resumes; s saves the
    shown picture; o hides and shows the labels.

    Args:
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.
        hold: keep each frame until a key is pressed, for a source of one image.
        pictures: the folder that s saves into.

    Raises:
        BackendUnavailable: there is no display, or this OpenCV was built without windows.
        MissingDependency: OpenCV is not installed.
    """

    in_caller_thread = True

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        legend: bool = True,
        cameras: int = 1,
        hold: bool = False,
        pictures: str | Path = ".",
    ) -> None:
        self._draw = Overlay(alpha, legend=legend)
        self._cv2 = require("cv2", extra="opencv")
        self._hold, self._pictures = hold, Path(pictures)
        self._overlaid, self._paused = True, False
        self._sized: set[str] = set()
        self._titles = [f"fcn-deploy {camera}" if cameras > 1 else "fcn-deploy" for camera in range(cameras)]
        # Qt ends the whole process where it finds no display, so check before.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise BackendUnavailable(
                "a window needs a display and there is none here; use --overlay instead, or --serve to see "
                "it in a browser"
            )
        try:
            # Without Qt's tool bar, which uses some of the keys itself.
            style = self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO | self._cv2.WINDOW_GUI_NORMAL
            for title in self._titles:
                self._cv2.namedWindow(title, style)
        except self._cv2.error as exc:
            raise BackendUnavailable(
                "this OpenCV was built without windows (opencv-python-headless?); use --overlay instead, or "
                "--serve to see it in a browser"
            ) from exc
        self._closed = False

    def __call__(self, delivery: Delivery) -> None:
        """Show it and handle the keys; a pause returns when it is over.

        Raises:
            StopPipeline: q or Esc was pressed, or the window closed.
        """
        self._show(delivery)
        key = self._key(delivery, 1)
        while self._paused or (self._hold and key in _HOLDING_KEYS):
            key = self._key(delivery, _KEY_POLL_MS)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for title in self._titles:
                with suppress(self._cv2.error):  # the user closed it
                    self._cv2.destroyWindow(title)

    def _show(self, delivery: Delivery) -> None:
        title, picture = self._titles[delivery.frame.camera], self._picture(delivery)
        if title not in self._sized:  # once, because the user may change its size
            self._sized.add(title)
            self._cv2.resizeWindow(title, *_window_size(picture.shape[1], picture.shape[0]))
        self._cv2.imshow(title, picture)

    def _picture(self, delivery: Delivery) -> Picture:
        """The shown picture, uint8 ``[H, W, 3]``, B, G, R."""
        picture, spec = delivery.frame.image, delivery.result.spec
        if self._overlaid:
            picture = self._draw(picture, delivery.labels, spec)
        return picture if spec.color_order == "bgr" else np.ascontiguousarray(picture[..., ::-1])

    def _key(self, delivery: Delivery, timeout: int) -> int:
        """Wait so many milliseconds for a key, and handle it."""
        cv2, title = self._cv2, self._titles[delivery.frame.camera]
        key = int(cv2.waitKey(timeout)) & 0xFF
        if key in (27, ord("q")) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            raise StopPipeline("the window was closed")
        if key == ord(" "):
            self._paused = not self._paused and not self._hold
        elif key == ord("o"):
            self._overlaid = not self._overlaid
            self._show(delivery)
        elif key == ord("s"):
            self._save(delivery)
        return key

    def _save(self, delivery: Delivery) -> None:
        shown = self._picture(delivery)
        camera = f"-{delivery.frame.camera}" if len(self._titles) > 1 else ""
        stem = f"{'overlay' if self._overlaid else 'frame'}{camera}-{Path(delivery.frame.name).stem}"
        try:
            path = unused_path(self._pictures, stem)
            write_picture(path, shown[..., ::-1])
        except UsageError as exc:
            log.warning("nothing was saved: %s", exc)
        else:
            log.info("saved %s", path)


def _window_size(width: int, height: int) -> tuple[int, int]:
    """Width and height, scaled down into :data:`_MAX_WINDOW`."""
    scale = min(1.0, _MAX_WINDOW[0] / width, _MAX_WINDOW[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))
