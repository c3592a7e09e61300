"""Captures whose calls may hang for ever, kept from hanging their callers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import Any, final

_LOOK = 0.05
"""Seconds between two looks at ``stopping``."""


def open_patiently(
    opened: Callable[[], Any], stopping: threading.Event, patience: float, *, may_hang: bool
) -> Any | None:
    """Open a capture in a thread of its own, because nothing ends an open that hangs.

    Args:
        opened: opens the capture and returns it.
        stopping: ends the wait when it is set.
        patience: seconds after which the wait ends too.
        may_hang: whether the open may never come back. Only then is it left behind when the process
            ends as well; one that has a time-out is waited for there, because a process that ends
            within FFmpeg's open is aborted.

    Returns:
        The capture; None where the wait ended first. That thread then releases it once it is there.
    """
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(opened())
        except Exception as exc:
            future.set_exception(exc)

    threading.Thread(target=work, name="fcn-deploy-open", daemon=may_hang).start()
    limit = time.monotonic() + patience
    while not wait([future], timeout=_LOOK).done:
        if stopping.is_set() or time.monotonic() >= limit:
            future.add_done_callback(lambda done: done.exception() or done.result().release())
            return None
    return future.result()


@final
class WatchedCapture:
    """A ``cv2.VideoCapture`` that is read in a thread which can be left behind.

    OpenCV before 4.10 waits for ever for a GStreamer pipeline that stalls, as one on a Jetson does when
    its camera service hangs. A thread left behind releases the capture if it ever comes back.

    Args:
        capture: opened; used by nobody else from now on.
        patience: seconds that a read may take.
    """

    def __init__(self, capture: Any, patience: float) -> None:
        self._capture, self._patience = capture, patience
        self._asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._hangs = False
        threading.Thread(target=self._work, name="fcn-deploy-read", daemon=True).start()

    def grab(self) -> bool:
        """Take the next frame; False where there is none, or none came in time."""
        self._asked.put(self._capture.grab)
        try:
            taken, error = self._answers.get(timeout=self._patience)
        except Empty:
            self._hangs = True
            return False
        if error is not None:
            raise error
        return bool(taken)

    def retrieve(self) -> tuple[bool, Any]:
        """The frame that was taken last."""
        ok, image = self._capture.retrieve()
        return ok, image

    def get(self, name: int) -> float:
        """A property."""
        return float(self._capture.get(name))

    def getBackendName(self) -> str:
        """OpenCV's name for what captures."""
        return str(self._capture.getBackendName())

    def release(self) -> None:
        """Let go of it now, or as soon as a read that hangs comes back."""
        if self._hangs:
            self._asked.put(self._capture.release)
        else:
            self._capture.release()
        self._asked.put(None)

    def _work(self) -> None:
        while (call := self._asked.get()) is not None:
            try:
                self._answers.put((call(), None))
            except Exception as exc:
                self._answers.put((False, exc))
