"""The base class of all sources, and the state that each of them reports."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fcn_deploy.camera.frames import CameraFrame


@dataclass
class SourceState:
    """The state of a source; the capturing thread writes it, any thread may read it."""

    phase: str = "closed"
    """``closed``, ``connecting``, ``streaming``, ``reconnecting`` or ``ended``."""
    reconnects: int = 0
    """How often a lost stream was reconnected."""
    message: str = ""
    """The last problem, as a sentence; empty where there was none."""
    properties: dict[str, Any] = field(default_factory=dict)
    """What was asked for (``asked``) and what the source gives (``got``): size, rate, pixel format, colour
    order, decoder."""


class Source(ABC):
    """A source of frames.

    Args:
        name: for messages, without passwords.
        live: whether frames come in real time, so that a consumer that is too slow must drop some;
            a source that is not live waits for its consumer, and no frame is dropped.
        color_order: ``bgr`` or ``rgb``: of its frames.
        length: how many frames it states to have; None where that is unknown.
        fps: frames a second that it states; None where that is unknown.
    """

    def __init__(
        self,
        name: str,
        *,
        live: bool,
        color_order: str = "bgr",
        length: int | None = None,
        fps: float | None = None,
    ) -> None:
        self.name = name
        self.live = live
        self.color_order = color_order
        self.length = length
        self.fps = fps
        self.state = SourceState()

    @abstractmethod
    def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
        """Open the source and yield its frames until it ends or ``stopping`` is set.

        Everything is done in the thread that iterates. However the iteration ends, by the last
        frame, an error, or because the iterator is closed, the device or file is released.
        A wait for a frame or for a reconnect ends within the source's read timeout once
        ``stopping`` is set.

        Yields:
            Frames, each in an array of its own that is never written to again.

        Raises:
            SourceError: it cannot be opened or read at all.
            PipelineError: a live stream was lost, and reconnecting is off or has been given up.
        """
