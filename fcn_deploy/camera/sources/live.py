"""Live streams through OpenCV: opened, read, and found again when they are lost."""

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
from fcn_deploy.camera.sources.connection import ENDED, Connection, complaint
from fcn_deploy.camera.sources.images import Image, rotated
from fcn_deploy.camera.sources.opencv import open_capture, prepare
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.properties import Properties
from fcn_deploy.camera.sources.reachability import host_unreachable
from fcn_deploy.camera.sources.watchdog import WatchedCapture, open_patiently
from fcn_deploy.errors import PipelineError, SourceError
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")


_MARGIN = 1.0
"""Seconds that a backend's own time-out may be late before its open is left behind."""


@dataclass(frozen=True)
class Opening:
    """How OpenCV is to open a stream."""

    target: str | int
    backend: str
    """A key of :data:`fcn_deploy.camera.sources.opencv.BACKENDS`."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Properties that the backend takes on opening, by the names of OpenCV's constants."""
    settings: tuple[tuple[str, float], ...] = ()
    """Properties that are set once it is open, in this order."""
    ffmpeg_options: str | None = None
    turns: bool = False
    """Whether the backend turns the frames itself."""


@final
class LiveSource(Source):
    """A camera or stream that is opened again, after a wait that grows, whenever it is lost.

    Args:
        name: for messages, without passwords.
        opening: how OpenCV opens it.
        color_order: ``bgr`` or ``rgb``.
        options: as for :func:`fcn_deploy.camera.open_source`. Where ``live`` is False the stream's end
            is the end; otherwise it is a loss.
    """

    def __init__(self, name: str, opening: Opening, color_order: str, options: SourceOptions) -> None:
        live = options.live is not False
        super().__init__(name, live=live, color_order=color_order)
        self._opening, self._options = opening, options
        self._properties = Properties(name, self.state, color_order, options)
        self._knocks = False

    def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
        """The frames as they come; numbers count on over reconnects.

        Raises:
            SourceError: it cannot be opened, and reconnecting is off.
            PipelineError: it was lost, and reconnecting is off; or for longer than ``give_up``.
        """
        prepare(self._options.read_timeout)
        outage = _Outage(self.name, self.state, self._options)
        index = 0
        try:
            with closing(self._connections(outage, stopping)) as connections:
                for connection in connections:
                    with closing(connection.images(stopping)) as images:
                        for image, captured in images:
                            outage.over()
                            self._properties.note(connection.capture, image)
                            yield CameraFrame(self._turned(image), f"{index:06d}", index, captured)
                            index += 1
                    if connection.lost == ENDED and not self.live and index:
                        return
                    if connection.lost:
                        outage.begin(connection.lost)
        finally:
            self.state.phase = "ended"

    def _connections(self, outage: _Outage, stopping: threading.Event) -> Generator[Connection, None, None]:
        """One connection after another, each let go of when the next one is asked for."""
        skip = self.live and self._opening.backend == "FFmpeg"
        while not stopping.is_set():
            capture = self._open(outage, stopping)
            if capture is not None:
                self._properties.renew()
                try:
                    yield Connection(capture, self.color_order, self._options.read_timeout, skip_backlog=skip)
                finally:
                    capture.release()
            if not stopping.is_set():
                outage.wait(stopping)

    def _turned(self, image: Image) -> Image:
        return rotated(image, 0 if self._opening.turns else self._options.rotate)

    def _open(self, outage: _Outage, stopping: threading.Event) -> Any | None:
        """An opened capture; None where it did not open, or ``stopping`` was set."""
        begun = time.monotonic()
        patience = self._options.open_timeout
        ffmpeg = self._opening.backend == "FFmpeg"
        if self._knocks and host_unreachable(str(self._opening.target), stopping, patience):
            if not stopping.is_set():
                outage.begin(self._why_closed(time.monotonic() - begun), unopened=True)
            return None
        try:
            capture = open_patiently(self._opened, stopping, patience + _MARGIN, may_hang=not ffmpeg)
        except require("cv2", extra="opencv").error as exc:
            outage.begin(f"it could not be opened ({complaint(exc)})", unopened=True)
            return None
        if capture is not None and capture.isOpened():
            self._knocks = False
            watched = self._opening.backend == "GStreamer"
            return WatchedCapture(capture, self._options.read_timeout) if watched else capture
        if capture is not None:
            capture.release()
        if not stopping.is_set():
            seconds = time.monotonic() - begun
            # A host that is off would hang OpenCV again, and with it every other camera's opening.
            self._knocks = ffmpeg and seconds >= 0.9 * patience
            outage.begin(self._why_closed(seconds), unopened=True)
        return None

    def _opened(self) -> Any:
        way = self._opening
        capture = open_capture(way.target, way.backend, way.parameters, way.ffmpeg_options)
        if capture.isOpened():
            cv2 = require("cv2", extra="opencv")
            for name, value in way.settings:
                capture.set(getattr(cv2, name), value)
        return capture

    def _why_closed(self, seconds: float) -> str:
        if seconds >= 0.9 * self._options.open_timeout:
            return f"it did not answer within {seconds:.1f} s"
        if self._opening.backend == "V4L2":
            target = self._opening.target
            path = f"/dev/video{target}" if isinstance(target, int) else target
            if not os.path.exists(path):
                return f"{path} is not there"
            if not os.access(path, os.R_OK | os.W_OK):
                return f"{path} may not be opened by this user (is the user in the group video?)"
            return f"{path} could not be opened; another program may use it"
        return "it could not be opened (refused, no such stream, or a wrong password)"


class _Outage:
    """Keeps account of losses: says each one once, waits longer each time, knows when to give up."""

    def __init__(self, name: str, state: SourceState, options: SourceOptions) -> None:
        self._name, self._state, self._options = name, state, options
        self._since: float | None = time.monotonic()
        self._said = False
        self._attempts = 0
        self._waited = 0.0
        self._streaming_since = 0.0
        self._never_streamed = True
        state.phase, state.reconnects, state.message = "connecting", 0, ""

    def begin(self, reason: str, unopened: bool = False) -> None:
        """The stream was lost, or is not there; said in the log once until it is back.

        Raises:
            SourceError: reconnecting is off, and it was never there.
            PipelineError: reconnecting is off, or it was lost for longer than ``give_up``.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
            # A stream that holds no longer than the wait before it must not be asked ever faster.
            if now - self._streaming_since > self._waited:
                self._attempts = 0
        self._state.message = reason
        if not self._options.reconnect:
            kind = SourceError if unopened and self._never_streamed else PipelineError
            raise kind(f"{self._name}: {reason}")
        if self._options.give_up is not None and now - self._since >= self._options.give_up:
            raise PipelineError(
                f"{self._name} was given up after {now - self._since:.1f} s without it: {reason}"
            )
        if not self._said:
            log.warning("%s: %s; trying again until it is there", self._name, reason)
            self._said = True
        self._state.phase = "connecting" if self._never_streamed else "reconnecting"

    def wait(self, stopping: threading.Event) -> None:
        """Wait before the next attempt; ends at once when ``stopping`` is set."""
        options = self._options
        longest = min(options.first_wait * 2 ** min(self._attempts, 60), options.longest_wait)
        self._waited = longest * random.uniform(0.5, 1.0)  # cameras of one site must not all knock at once
        self._attempts += 1
        stopping.wait(self._waited)

    def over(self) -> None:
        """A frame came."""
        if self._since is None:
            return
        now = time.monotonic()
        if not self._never_streamed:
            self._state.reconnects += 1
        if self._said:
            log.info("%s: there again after %.1f s", self._name, now - self._since)
        self._since, self._said, self._never_streamed = None, False, False
        self._streaming_since = now
        self._state.phase = "streaming"
