"""A camera that serves MJPEG over HTTP on loopback, with faults on request."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np
from drawn_time import Clip
from numpy.typing import NDArray
from PIL import Image


class Camera:
    """A context manager; :meth:`stop` and :meth:`start` keep its port.

    Args:
        size: height and width; may be changed while it is stopped.
        fps: frames a second.
    """

    def __init__(self, size: tuple[int, int] = (96, 192), fps: float = 50) -> None:
        self.size, self.fps = size, fps
        self.grey = False
        self.stalled = threading.Event()
        """While set, it keeps its connections and sends nothing."""
        self.spoil: Callable[[bytes, int], bytes] = lambda jpeg, index: jpeg
        """Changes a JPEG before it is sent; called with the JPEG and its number."""
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/stream.mjpg"

    def start(self) -> Camera:
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):  # the client went away
                    camera._send(self)

            def log_message(self, *args: object) -> None:
                pass

        self._stopped.clear()
        self.stalled.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """End every connection and stop listening."""
        self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _send(self, handler: BaseHTTPRequestHandler) -> None:
        clip = Clip(self.size)
        index = 0
        while not self._stopped.wait(1 / self.fps):
            if self.stalled.is_set():
                continue
            jpeg = self.spoil(_jpeg(clip.frame(time.monotonic()), self.grey), index)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            handler.wfile.write(head.encode() + jpeg + b"\r\n")
            index += 1

    def __enter__(self) -> Camera:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _jpeg(picture: NDArray[np.uint8], grey: bool) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(picture)
    (image if grey else image.convert("RGB")).save(file, "JPEG", quality=90)
    return file.getvalue()
