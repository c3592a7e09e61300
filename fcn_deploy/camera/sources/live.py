"""Live streams through OpenCV: opened, read, and reconnected when they are lost."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, final

from fcn_deploy.camera.frames import CameraFrame
from fcn_deploy.camera.sources.base import Source, SourceState
from fcn_deploy.camera.sources.connection import ENDED, Connection, error_text
from fcn_deploy.camera.sources.images import Image, rotated
from fcn_deploy.camera.sources.opencv import open_capture, prepare
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.properties import CaptureProperties
from fcn_deploy.camera.sources.reachability import host_unreachable
from fcn_deploy.camera.sources.watchdog import WatchedCapture, open_with_timeout
from fcn_deploy.errors import PipelineError, SourceError
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")

_OPEN_MARGIN = 1.0
"""Seconds that an open may take longer than the backend's own timeout before it is abandoned."""


@dataclass(frozen=True)
class CaptureSettings:
    """How OpenCV opens a stream."""

    target: str | int
    backend: str
    """A key of :data:`fcn_deploy.camera.sources.opencv.BACKENDS`."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Properties that the backend takes on opening, by the names of OpenCV's constants."""
    properties: tuple[tuple[str, float], ...] = ()
    """Properties that are set once it is open, in this order."""
    ffmpeg_options: str | None = None
    """As for :func:`fcn_deploy.camera.sources.opencv.open_capture`."""
    rotates: bool = False
    """Whether the backend rotates the frames itself."""


@final
class LiveSource(Source):
    """A camera or stream that is opened again, with exponential backoff, whenever it is lost.

    Args:
        name: for messages, without passwords.
        settings: how OpenCV opens it.
        color_order: ``bgr`` or ``rgb``.
        options: as for :func:`fcn_deploy.camera.open_source`. Where ``live`` is False the source ends
            when the stream ends; otherwise it is opened again.
    """

    def __init__(
        self, name: str, settings: CaptureSettings, color_order: str, options: SourceOptions
    ) -> None:
        live = options.live is not False
        super().__init__(name, live=live, color_order=color_order)
        self._settings, self._options = settings, options
        self._properties = CaptureProperties(name, self.state, color_order, options)
        self._check_host_first = False
        """Whether to check that the host can be reached before OpenCV tries to open the stream."""

    def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
        """The frames as they come; their numbers count on over reconnects.

        Raises:
            SourceError: it cannot be opened, and reconnecting is off.
            PipelineError: it was lost, and reconnecting is off; or it was lost for longer than ``give_up``.
        """
        prepare(self._options.read_timeout)
        reconnection = _Reconnection(self.name, self.state, self._options)
        index = 0
        try:
            with closing(self._connections(reconnection, stopping)) as connections:
                for connection in connections:
                    with closing(connection.images(stopping)) as images:
                        for image, captured in images:
                            reconnection.frame_came()
                            self._properties.update(connection.capture, image)
                            yield CameraFrame(self._rotated(image), f"{index:06d}", index, captured)
                            index += 1
                    if connection.loss == ENDED and not self.live and index:
                        return
                    if connection.loss:
                        reconnection.lost(connection.loss)
        finally:
            self.state.phase = "ended"

    def _connections(
        self, reconnection: _Reconnection, stopping: threading.Event
    ) -> Generator[Connection, None, None]:
        """One connection after another; each is released when the next one is asked for."""
        skip = self.live and self._settings.backend == "FFmpeg"
        while not stopping.is_set():
            capture = self._open(reconnection, stopping)
            if capture is not None:
                self._properties.reset()
                try:
                    yield Connection(capture, self.color_order, self._options.read_timeout, skip_backlog=skip)
                finally:
                    capture.release()
            if not stopping.is_set():
                reconnection.wait(stopping)

    def _rotated(self, image: Image) -> Image:
        return rotated(image, 0 if self._settings.rotates else self._options.rotate)

    def _open(self, reconnection: _Reconnection, stopping: threading.Event) -> Any | None:
        """An opened capture; None where it did not open, or ``stopping`` was set."""
        begun = time.monotonic()
        timeout = self._options.open_timeout
        ffmpeg = self._settings.backend == "FFmpeg"
        if self._check_host_first and host_unreachable(str(self._settings.target), stopping, timeout):
            if not stopping.is_set():
                reconnection.lost(self._why_not_open(time.monotonic() - begun), unopened=True)
            return None
        try:
            capture = open_with_timeout(self._opened, stopping, timeout + _OPEN_MARGIN, may_hang=not ffmpeg)
        except require("cv2", extra="opencv").error as exc:
            reconnection.lost(f"it could not be opened ({error_text(exc)})", unopened=True)
            return None
        if capture is not None and capture.isOpened():
            self._check_host_first = False
            watched = self._settings.backend == "GStreamer"
            return WatchedCapture(capture, self._options.read_timeout) if watched else capture
        if capture is not None:
            capture.release()
        if not stopping.is_set():
            seconds = time.monotonic() - begun
            # OpenCV would hang again on a host that is off, and every other camera that opens with it.
            self._check_host_first = ffmpeg and seconds >= 0.9 * timeout
            reconnection.lost(self._why_not_open(seconds), unopened=True)
        return None

    def _opened(self) -> Any:
        settings = self._settings
        capture = open_capture(
            settings.target, settings.backend, settings.parameters, settings.ffmpeg_options
        )
        if capture.isOpened():
            cv2 = require("cv2", extra="opencv")
            for name, value in settings.properties:
                capture.set(getattr(cv2, name), value)
        return capture

    def _why_not_open(self, seconds: float) -> str:
        if seconds >= 0.9 * self._options.open_timeout:
            return f"it did not answer within {seconds:.1f} s"
        if self._settings.backend == "V4L2":
            target = self._settings.target
            path = f"/dev/video{target}" if isinstance(target, int) else target
            if not os.path.exists(path):
                return f"{path} does not exist"
            if not os.access(path, os.R_OK | os.W_OK):
                return f"{path} may not be opened by this user (is the user in the group video?)"
            return f"{path} could not be opened; another program may use it"
        return "it could not be opened (refused, no such stream, or a wrong password)"


class _Reconnection:
    """Reconnects with exponential backoff, logs each loss once, and gives up when it is time to."""

    def __init__(self, name: str, state: SourceState, options: SourceOptions) -> None:
        self._name, self._state, self._options = name, state, options
        self._lost_since: float | None = time.monotonic()
        self._logged = False
        self._attempts = 0
        self._last_wait = 0.0
        self._streaming_since = 0.0
        self._never_streamed = True
        state.phase, state.reconnects, state.message = "connecting", 0, ""

    def lost(self, reason: str, unopened: bool = False) -> None:
        """The stream was lost, or could not be opened; logged once until it is connected again.

        Raises:
            SourceError: reconnecting is off, and it never gave a frame.
            PipelineError: reconnecting is off, or it was lost for longer than ``give_up``.
        """
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
            # A stream that lasts no longer than the wait before it must not be opened ever more often.
            if now - self._streaming_since > self._last_wait:
                self._attempts = 0
        self._state.message = reason
        if not self._options.reconnect:
            kind = SourceError if unopened and self._never_streamed else PipelineError
            raise kind(f"{self._name}: {reason}")
        seconds = now - self._lost_since
        if self._options.give_up is not None and seconds >= self._options.give_up:
            raise PipelineError(
                f"{self._name} was given up after {seconds:.1f} s without a connection: {reason}"
            )
        if not self._logged:
            log.warning("%s: %s; trying again until it is connected", self._name, reason)
            self._logged = True
        self._state.phase = "connecting" if self._never_streamed else "reconnecting"

    def wait(self, stopping: threading.Event) -> None:
        """Wait before the next attempt; ends at once when ``stopping`` is set."""
        options = self._options
        longest = min(options.first_wait * 2 ** min(self._attempts, 60), options.longest_wait)
        # With jitter, so that the cameras of a site are not all opened at the same moment.
        self._last_wait = longest * random.uniform(0.5, 1.0)
        self._attempts += 1
        stopping.wait(self._last_wait)

    def frame_came(self) -> None:
        """A frame came: the stream is connected."""
        if self._lost_since is None:
            return
        now = time.monotonic()
        if not self._never_streamed:
            self._state.reconnects += 1
        if self._logged:
            log.info("%s: connected again after %.1f s", self._name, now - self._lost_since)
        self._lost_since, self._logged, self._never_streamed = None, False, False
        self._streaming_since = now
        self._state.phase = "streaming"
