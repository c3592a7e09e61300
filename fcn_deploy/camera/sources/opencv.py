"""OpenCV's captures: which video backends this build has, and how to open a capture."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Any

from fcn_deploy.errors import BackendUnavailable
from fcn_deploy.lazy import installed, require

BACKENDS = {"FFmpeg": "CAP_FFMPEG", "GStreamer": "CAP_GSTREAMER", "V4L2": "CAP_V4L2"}
"""Names of video backends -> OpenCV's constants."""

_HOW_TO_GET = {
    "FFmpeg": "install opencv-python from PyPI, or build OpenCV with -DWITH_FFMPEG=ON",
    "GStreamer": "the wheels from PyPI have none; use JetPack's OpenCV or Debian's python3-opencv, or "
    "build OpenCV with -DWITH_GSTREAMER=ON",
    "V4L2": "it exists on Linux only, with opencv-python from PyPI or -DWITH_V4L=ON",
}

_LOG_LEVEL_ERROR = 2
"""OpenCV's log level for errors only."""

_FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"

_opening = threading.Lock()


def video_backends() -> dict[str, str | None]:
    """FFmpeg, GStreamer and V4L2: why OpenCV cannot use each one here, or None where it can."""
    if not installed("cv2"):
        return dict.fromkeys(BACKENDS, "OpenCV is not installed; run: pip install 'fcn-deploy[opencv]'")
    cv2 = require("cv2", extra="opencv")
    return {name: _missing(cv2, name) for name in BACKENDS}


def require_backend(name: str, wanted_by: str) -> None:
    """Check that a backend is available.

    Args:
        name: a key of :data:`BACKENDS`.
        wanted_by: what needs it, for the message.

    Raises:
        BackendUnavailable: this OpenCV was built without it; the message says how to get it.
        MissingDependency: OpenCV is not installed.
    """
    if reason := _missing(require("cv2", extra="opencv"), name):
        raise BackendUnavailable(f"{wanted_by} needs {name}: {reason}")


def _missing(cv2: Any, name: str) -> str | None:
    if cv2.videoio_registry.hasBackend(getattr(cv2, BACKENDS[name])):
        return None
    return f"OpenCV {cv2.__version__} was built without {name}; {_HOW_TO_GET[name]}"


def prepare(read_timeout: float) -> None:
    """Set what OpenCV has for the whole process only; what the user has set already is not changed.

    FFmpeg's and OpenCV's own lines on stderr are switched off, because a damaged stream writes one for
    each frame, sometimes with its URL. V4L2's timeout is rounded up to whole seconds.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(ceil(read_timeout)))
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2 = require("cv2", extra="opencv")
        logging = getattr(cv2.utils, "logging", cv2)  # OpenCV before 4.7 has it elsewhere, or not at all
        if hasattr(logging, "setLogLevel"):
            logging.setLogLevel(_LOG_LEVEL_ERROR)


def open_capture(
    target: str | int, backend: str, parameters: Mapping[str, int], ffmpeg_options: str | None = None
) -> Any:
    """A ``cv2.VideoCapture``; check its ``isOpened``, because it may have failed to open.

    Args:
        target: URL, pipeline, or a device's number or path.
        backend: a key of :data:`BACKENDS`.
        parameters: names of properties that the backend takes on opening, with their values; those that
            an older OpenCV does not know are left out.
        ffmpeg_options: ``name;value|name;value`` for FFmpeg. OpenCV reads them from the environment
            only, so they are set while this capture opens, and captures open one after another (as
            they do inside OpenCV anyway).
    """
    cv2 = require("cv2", extra="opencv")
    api = getattr(cv2, BACKENDS[backend])
    if backend == "V4L2" and sys.platform != "linux":
        api = cv2.CAP_ANY
    known = {getattr(cv2, name): value for name, value in parameters.items() if hasattr(cv2, name)}
    flat = [number for pair in known.items() for number in pair]
    if backend != "FFmpeg":
        return cv2.VideoCapture(target, api, flat)
    with _opening, _added_to_environment(_FFMPEG_OPTIONS, ffmpeg_options):
        return cv2.VideoCapture(target, api, flat)


@contextmanager
def _added_to_environment(name: str, options: str | None) -> Iterator[None]:
    if options is None:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = options if before is None else f"{before}|{options}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
