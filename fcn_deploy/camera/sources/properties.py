"""Compares what was asked of a camera with what it gives, and keeps both in its source's state."""

from __future__ import annotations

import logging
from typing import Any

from fcn_deploy.camera.sources.base import SourceState
from fcn_deploy.camera.sources.images import Image
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")


class CaptureProperties:
    """Compares what an opened capture gives with what was asked of it.

    Args:
        name: the source's, for messages.
        state: its ``properties`` become ``{"asked": {...}, "got": {...}, "rotate": degrees}``, with
            ``size`` (height, width before rotation), ``fps``, ``pixel_format``, ``color_order``, and in
            ``got`` also ``backend`` and ``decoder_threads``.
        color_order: of the frames that the source gives.
        options: what was asked.
    """

    def __init__(self, name: str, state: SourceState, color_order: str, options: SourceOptions) -> None:
        self._name, self._state, self._color_order = name, state, color_order
        requested = {
            "size": None if options.size is None else list(options.size),
            "fps": options.fps,
            "pixel_format": options.pixel_format,
            "color_order": color_order,
        }
        self._asked = {key: value for key, value in requested.items() if value is not None}
        self._rotate = options.rotate
        self._warned: set[str] = set()
        self._size: tuple[int, ...] | None = None

    def reset(self) -> None:
        """Compare again at the next frame, because the stream was opened again."""
        self._size = None

    def update(self, capture: Any, image: Image) -> None:
        """Note what the capture gives; compares only after :meth:`reset` or when the size has changed.

        Args:
            capture: an opened ``cv2.VideoCapture``.
            image: its newest frame, not rotated.
        """
        if image.shape[:2] == self._size:
            return
        self._size = image.shape[:2]
        got = self._got(capture, image)
        before = self._state.properties.get("got")
        self._state.properties = {"asked": self._asked, "got": got, "rotate": self._rotate}
        self._compare(got)
        if before is not None and before != got:
            log.info("%s: now %s, before %s", self._name, _described(got), _described(before))

    def _got(self, capture: Any, image: Image) -> dict[str, Any]:
        cv2 = require("cv2", extra="opencv")
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        got: dict[str, Any] = {
            "size": list(image.shape[:2]),
            "fps": round(fps, 3) if 0 < fps <= 1000 else None,
            "pixel_format": _fourcc(capture.get(cv2.CAP_PROP_FOURCC)),
            "color_order": self._color_order,
            "backend": capture.getBackendName(),
        }
        if got["backend"] == "FFMPEG" and hasattr(cv2, "CAP_PROP_N_THREADS"):
            got["decoder_threads"] = int(capture.get(cv2.CAP_PROP_N_THREADS))
        return got

    def _compare(self, got: dict[str, Any]) -> None:
        """Warn of each difference once, however often the stream is opened again."""
        for key, asked in self._asked.items():
            if not _same(asked, got[key]):
                difference = f"{key} {_text(got[key])} instead of {_text(asked)}"
                if difference not in self._warned:
                    log.warning("%s gives %s", self._name, difference)
                    self._warned.add(difference)


def _same(asked: Any, got: Any) -> bool:
    if isinstance(asked, float | int) and isinstance(got, float):
        return abs(asked - got) <= 0.01 * asked  # 29.97 for 30
    return bool(asked == got)


def _fourcc(value: float) -> str | None:
    code = int(value)
    text = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24))
    return text if code > 0 and text.isprintable() and text.isascii() else None


def _described(got: dict[str, Any]) -> str:
    rate = "an unknown rate" if got["fps"] is None else f"{got['fps']:g} frames a second"
    return f"{_text(got['size'])} at {rate}, {got['pixel_format'] or 'unknown format'}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
