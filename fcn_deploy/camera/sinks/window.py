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
from fcn_deploy.camera.sinks.files import free, write_picture
from fcn_deploy.camera.sinks.video_file import Picture
from fcn_deploy.draw import Overlay
from fcn_deploy.errors import BackendUnavailable, UsageError
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")


_BLINK = 30
"""Milliseconds between two looks at the keys of a window that stands still."""


_STAYING = (255, ord("o"), ord("s"))
"""Keys that do not take a held picture away; 255 is none."""


_WINDOW = (1280, 720)
"""Width and height that a window begins with at most."""


@final
class Window(Sink):
    """A window for each camera that shows the overlay.

    q or Esc ends the pipeline, as closing the window does; space pauses, s saves what is shown as a
    picture, o takes the labels away and brings them back.

    Args:
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.
        hold: keep each frame until a key is pressed, for a source of one image.
        pictures: folder that s saves into.

    Raises:
        BackendUnavailable: there is no display, or this OpenCV has no windows.
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
        # Qt ends the whole process where it finds no display, so it must not be asked.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise BackendUnavailable(
                "a window needs a display and there is none here; use --overlay instead, or --serve to look "
                "at it in a browser"
            )
        try:
            # Without Qt's tool bar, whose letters would take the keys.
            style = self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO | self._cv2.WINDOW_GUI_NORMAL
            for title in self._titles:
                self._cv2.namedWindow(title, style)
        except self._cv2.error as exc:
            raise BackendUnavailable(
                "this OpenCV was built without windows (opencv-python-headless?); use --overlay instead, or "
                "--serve to look at it in a browser"
            ) from exc
        self._closed = False

    def __call__(self, delivery: Delivery) -> None:
        """Show it, and do what the keys say; returns once the pause is over.

        Raises:
            StopPipeline: q or Esc was pressed, or the window closed.
        """
        self._show(delivery)
        key = self._key(delivery, 1)
        while self._paused or (self._hold and key in _STAYING):
            key = self._key(delivery, _BLINK)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for title in self._titles:
                with suppress(self._cv2.error):  # the user closed it
                    self._cv2.destroyWindow(title)

    def _show(self, delivery: Delivery) -> None:
        title, picture = self._titles[delivery.frame.camera], self._picture(delivery)
        if title not in self._sized:  # once: from then on its size is the user's
            self._sized.add(title)
            self._cv2.resizeWindow(title, *_fitted(picture.shape[1], picture.shape[0]))
        self._cv2.imshow(title, picture)

    def _picture(self, delivery: Delivery) -> Picture:
        """What is shown, B, G, R."""
        picture, spec = delivery.frame.image, delivery.answer.spec
        if self._overlaid:
            picture = self._draw(picture, delivery.labels, spec)
        return picture if spec.color_order == "bgr" else np.ascontiguousarray(picture[..., ::-1])

    def _key(self, delivery: Delivery, patience: int) -> int:
        """Wait so many milliseconds for a key, and do what it says."""
        cv2, title = self._cv2, self._titles[delivery.frame.camera]
        key = int(cv2.waitKey(patience)) & 0xFF
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
            place = free(self._pictures, stem)
            write_picture(place, shown[..., ::-1])
        except UsageError as exc:
            log.warning("nothing was saved: %s", exc)
        else:
            log.info("saved %s", place)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Width and height, scaled down to what fits :data:`_WINDOW`."""
    scale = min(1.0, _WINDOW[0] / width, _WINDOW[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))
