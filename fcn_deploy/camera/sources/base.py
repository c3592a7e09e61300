"""What every source is: frames until it ends, a name for messages, and a state to look at."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fcn_deploy.camera.frames import CameraFrame


@dataclass
class SourceState:
    """How a source is doing; written by the thread that captures, read by any."""

    phase: str = "closed"
    """``closed``, ``connecting``, ``streaming``, ``reconnecting`` or ``ended``."""
    reconnects: int = 0
    """How often a lost stream was found again."""
    message: str = ""
    """The last thing that went wrong, in words; empty where nothing did."""
    properties: dict[str, Any] = field(default_factory=dict)
    """What was asked for and what was got: size, rate, pixel format, colour order, decoder."""


class Source(ABC):
    """Where frames come from.

    Args:
        name: for messages, without passwords.
        live: whether frames are made in real time and must be dropped by a consumer that is late;
            a source that is not live waits for its consumer and loses nothing.
        color_order: ``bgr`` or ``rgb``: of the frames that it gives.
        length: how many frames it states to have; None where it does not say.
        fps: frames a second that it states; None where it does not say.
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
        """Open the source and give its frames until it ends or ``stopping`` is set.

        All of it happens in the thread that iterates. However the iteration ends, by the last
        frame, an error, or because the iterator is closed, the device or file is let go of.
        Waiting, for a frame or for a reconnect, ends within the source's read time-out once
        ``stopping`` is set.

        Yields:
            Frames, each in an array of its own that is never written to again.

        Raises:
            SourceError: it cannot be opened or read at all.
            PipelineError: a live stream was lost, and reconnecting was switched off or given up.
        """
