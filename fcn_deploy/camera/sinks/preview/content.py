"""What the preview shows: the newest frame of each camera, drawn when a viewer asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.preview.jpeg import encode_jpeg
from fcn_deploy.draw import Overlay

Statistics = Callable[[], Any]
"""What ``pipeline.statistics`` is: returns an object with ``to_json()`` and ``prometheus()``."""

_MAX_WIDTH = 1280
"""Pixels; of wider frames every second, third, ... pixel is drawn."""


@dataclass
class _CameraContent:
    """The newest delivery of one camera, and the newest picture of it."""

    overlay: Overlay
    delivery: Delivery | None = None
    number: int = 0
    """How many deliveries there were."""
    drawing: threading.Lock = field(default_factory=threading.Lock)
    """Guards the fields below and the overlay's arrays."""
    encoded: bytes = b""
    encoded_number: int = 0
    """The number of the delivery that is encoded."""
    encoded_at: float = 0.0

    @property
    def outdated(self) -> bool:
        """Whether there is a newer delivery than the encoded one."""
        return self.encoded_number < self.number


@final
class PreviewContent:
    """The newest delivery of each camera, as JPEG pictures and as numbers. Safe to use from any thread.

    Args:
        statistics: the pipeline's; may be set later.
        alpha: weight of the labels' colours, 0 to 1.
        fps: pictures a second that are drawn at most, for each camera.

    Raises:
        UsageError: alpha is out of range.
    """

    def __init__(self, statistics: Statistics | None, alpha: float, fps: float) -> None:
        Overlay(alpha)  # checks alpha
        self.statistics = statistics
        self._alpha, self._interval = alpha, 1 / fps
        self._cameras: dict[int, _CameraContent] = {}
        self._changed = threading.Condition()
        self._closed = False

    def update(self, delivery: Delivery) -> None:
        """Keep the newest delivery of its camera; nothing is drawn here."""
        with self._changed:
            camera = self._cameras.get(delivery.frame.camera)
            if camera is None:
                camera = self._cameras[delivery.frame.camera] = _CameraContent(Overlay(self._alpha))
            camera.delivery, camera.number = delivery, camera.number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """End every wait; no more pictures are given."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether no more pictures are given."""
        return self._closed

    def picture(self, camera: int, after: int, timeout: float) -> tuple[int, bytes] | None:
        """A camera's newest overlay, drawn and encoded once for all viewers.

        Args:
            camera: its number.
            after: the number of the picture that the viewer has; 0 is none.
            timeout: seconds to wait for a newer one.

        Returns:
            Its number and a JPEG; None where none came in time, or the preview was closed.
        """
        limit = time.monotonic() + timeout
        with self._changed:
            found = self._changed.wait_for(
                lambda: self._closed or self._is_newer(camera, after), timeout=max(0.0, timeout)
            )
            if not found or self._closed:
                return None
            viewed = self._cameras[camera]
        with viewed.drawing:  # the first viewer draws, the others find it drawn
            pause = viewed.encoded_at + self._interval - time.monotonic()
            if viewed.encoded_number <= after and pause > 0:
                time.sleep(min(pause, max(0.0, limit - time.monotonic())))
            # What was drawn for another viewer a while ago is not the newest any more.
            if viewed.encoded_number <= after or (pause <= 0 and viewed.outdated):
                self._encode(viewed)
            return viewed.encoded_number, viewed.encoded

    def summary(self, camera: int) -> dict[str, Any]:
        """The cameras, and the newest frame of one of them with the share of each class, for the page."""
        with self._changed:
            viewed = self._cameras.get(camera)
            cameras = sorted(self._cameras)
        summary: dict[str, Any] = {"cameras": cameras, "classes": []}
        if viewed is not None and (delivery := viewed.delivery) is not None:
            spec = delivery.result.spec
            sample = delivery.labels[::2, ::2]  # a quarter of the pixels is enough for shares
            counts = np.bincount(sample.reshape(-1), minlength=256)
            summary["classes"] = [
                {"name": name, "color": list(color), "share": round(int(count) / sample.size, 4)}
                for name, color, count in zip(spec.classes, spec.palette, counts, strict=False)
            ]
            summary["frame"] = {
                "name": delivery.frame.name,
                "height": delivery.labels.shape[0],
                "width": delivery.labels.shape[1],
                "age_ms": round(1000 * delivery.age, 1),
                "seen_ms_ago": round(1000 * (time.monotonic() - delivery.frame.captured)),
            }
        return summary

    def _is_newer(self, camera: int, after: int) -> bool:
        found = self._cameras.get(camera)
        return found is not None and found.number > after

    def _encode(self, camera: _CameraContent) -> None:
        """Draw and encode the newest frame. The caller holds the camera's drawing lock."""
        with self._changed:
            delivery, number = camera.delivery, camera.number
        assert delivery is not None, "a camera is made with its first delivery"
        image, labels = delivery.frame.image, delivery.labels
        step = -(-image.shape[1] // _MAX_WIDTH)
        spec = delivery.result.spec
        drawn = camera.overlay(image[::step, ::step], labels[::step, ::step], spec)
        camera.encoded_at = time.monotonic()
        camera.encoded, camera.encoded_number = encode_jpeg(drawn, spec.color_order), number
