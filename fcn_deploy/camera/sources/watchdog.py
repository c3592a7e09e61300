"""Timeouts for OpenCV's captures, whose calls may hang for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import Any, final

_POLL_INTERVAL = 0.05
"""Seconds between two checks of ``stopping``."""


def open_with_timeout(
    open_it: Callable[[], Any], stopping: threading.Event, timeout: float, *, may_hang: bool
) -> Any | None:
    """Open a capture in a thread of its own, because an open that hangs cannot be ended.

    Args:
        open_it: opens the capture and returns it.
        stopping: ends the wait when it is set.
        timeout: seconds after which the wait ends too.
        may_hang: whether the open may never return. Only then does the process end without waiting for
            its thread; an open that has a timeout of its own is waited for, because a process that ends
            within FFmpeg's open is aborted.

    Returns:
        The capture; None where the wait ended first. The thread then releases it once it is open.
    """
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(open_it())
        except Exception as exc:
            future.set_exception(exc)

    threading.Thread(target=work, name="fcn-deploy-open", daemon=may_hang).start()
    limit = time.monotonic() + timeout
    while not wait([future], timeout=_POLL_INTERVAL).done:
        if stopping.is_set() or time.monotonic() >= limit:
            future.add_done_callback(lambda done: done.exception() or done.result().release())
            return None
    return future.result()


@final
class WatchedCapture:
    """A ``cv2.VideoCapture`` that is read in a thread of its own, with a timeout.

    OpenCV before 4.10 waits for ever for a GStreamer pipeline that stalls, as one on a Jetson does when
    its camera service hangs. The thread is then abandoned, and releases the capture if the read returns.

    Args:
        capture: opened; used by nobody else from now on.
        timeout: seconds that a read may take.
    """

    def __init__(self, capture: Any, timeout: float) -> None:
        self._capture, self._timeout = capture, timeout
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._hangs = False
        threading.Thread(target=self._work, name="fcn-deploy-read", daemon=True).start()

    def grab(self) -> bool:
        """Take the next frame; False where there is none, or none came in time."""
        self._calls.put(self._capture.grab)
        try:
            grabbed, error = self._results.get(timeout=self._timeout)
        except Empty:
            self._hangs = True
            return False
        if error is not None:
            raise error
        return bool(grabbed)

    def retrieve(self) -> tuple[bool, Any]:
        """The frame that was grabbed last."""
        ok, image = self._capture.retrieve()
        return ok, image

    def get(self, name: int) -> float:
        """A property."""
        return float(self._capture.get(name))

    def getBackendName(self) -> str:
        """OpenCV's name for the video backend."""
        return str(self._capture.getBackendName())

    def release(self) -> None:
        """Release it now, or as soon as a read that hangs returns."""
        if self._hangs:
            self._calls.put(self._capture.release)
        else:
            self._capture.release()
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put((call(), None))
            except Exception as exc:
                self._results.put((False, exc))
