"""The pipeline in a browser: pictures as they are delivered, and how it is doing.

A box without a display serves it on its loopback address; ``ssh -L 8080:localhost:8080 box`` brings it to
the engineer's own machine. Pictures are drawn and encoded while somebody looks, in the threads that serve,
and the newest one alone: neither a crowd nor a slow line ever holds up the pipeline.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from importlib import resources
from io import BytesIO
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.video_file import Picture
from fcn_deploy.draw import Overlay
from fcn_deploy.errors import UsageError
from fcn_deploy.lazy import installed, require

log = logging.getLogger("fcn_deploy.camera")


MOST_STREAMS = 8
"""Streams that are served at once; one more is told to come back later."""


_MOST_CONNECTIONS = 32


_WIDEST = 1280
"""Pixels across; wider frames are thinned out to every second, third, … pixel before they are drawn."""


_QUALITY = 80


_SEND_BUFFER = 256 << 10
"""Bytes that may wait in the system for a slow line: they are how far behind it can be."""


_PATIENCE = 10.0
"""Seconds that a client may take to send its request, or to take what it is sent."""


_FIRST = 5.0
"""Seconds that a snapshot waits for the first frame."""


_BOUNDARY = "frame"


Statistics = Callable[[], Any]
"""What ``pipeline.statistics`` is: gives an object with ``to_json()`` and ``prometheus()``."""


@final
class Preview(Sink):
    """A web page with the newest overlays of each camera, and the pipeline's statistics beside them.

    It serves ``/`` (the page), ``/stream.mjpg`` and ``/snapshot.jpg`` (with ``?camera=N``),
    ``/statistics.json`` and ``/metrics`` (for Prometheus). There is no password: on any address but a
    loopback one, everybody who reaches it can look.

    Args:
        host: a name or address of this machine; ``0.0.0.0`` is all of them.
        port: 0 takes any free one; :attr:`port` tells which.
        statistics: gives what is shown beside the pictures; may be set later.
        alpha: weight of the labels' colours, 0 to 1.
        fps: pictures a second that a looker gets at most.

    Raises:
        UsageError: the port is in use or not allowed, the host is not this machine's, or alpha or fps
            cannot be.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        statistics: Statistics | None = None,
        alpha: float = 0.5,
        *,
        fps: float = 15.0,
    ) -> None:
        if not 0 < fps <= 240:
            raise UsageError(f"a preview shows more than 0 and up to 240 pictures a second, not {fps}")
        Overlay(alpha)  # refuses what it cannot draw with
        self.statistics = statistics
        self._alpha, self._gap = alpha, 1 / fps
        self._cameras: dict[int, _Camera] = {}
        self._news = threading.Condition()
        self._closed = False
        self._server = _serve(host, port, self)
        self.host = host
        self.port = int(self._server.server_address[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="fcn-deploy-preview", daemon=True
        )
        self._thread.start()
        log.info("preview on %s", self.url)

    def __call__(self, delivery: Delivery) -> None:
        """Keep the newest delivery of each camera; nothing is drawn here."""
        with self._news:
            camera = self._cameras.get(delivery.frame.camera)
            if camera is None:
                camera = self._cameras[delivery.frame.camera] = _Camera(Overlay(self._alpha))
            camera.delivery, camera.number = delivery, camera.number + 1
            self._news.notify_all()

    def close(self) -> None:
        """Free the port and end every stream."""
        if self._closed:
            return
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_clients()
        self._thread.join()

    @property
    def closed(self) -> bool:
        """Whether it serves no more."""
        return self._closed

    def picture(self, camera: int, after: int, patience: float) -> tuple[int, bytes] | None:
        """A camera's newest overlay, drawn and encoded once for all who ask.

        Args:
            camera: its number.
            after: the number of the picture that the asker has; 0 has none.
            patience: seconds to wait for a newer one.

        Returns:
            Its number and a JPEG; None where none came, or the preview was closed.
        """
        limit = time.monotonic() + patience
        with self._news:
            found = self._news.wait_for(
                lambda: self._closed or self._newer(camera, after), timeout=max(0.0, patience)
            )
            if not found or self._closed:
                return None
            looked_at = self._cameras[camera]
        with looked_at.drawing:  # the first one draws, the others find it drawn
            pause = looked_at.encoded_at + self._gap - time.monotonic()
            if looked_at.encoded_number <= after and pause > 0:
                time.sleep(min(pause, max(0.0, limit - time.monotonic())))
            # What was drawn for somebody else a while ago is not the newest any more.
            if looked_at.encoded_number <= after or (pause <= 0 and looked_at.outdated):
                self._encode(looked_at)
            return looked_at.encoded_number, looked_at.encoded

    def seen(self, camera: int) -> dict[str, Any]:
        """The newest frame's classes with their share of it, as the page shows them."""
        with self._news:
            looked_at = self._cameras.get(camera)
            cameras = sorted(self._cameras)
        told: dict[str, Any] = {"cameras": cameras, "watching": self._server.streams, "classes": []}
        if looked_at is not None and (delivery := looked_at.delivery) is not None:
            spec = delivery.answer.spec
            thinned = delivery.labels[::2, ::2]  # a quarter of the pixels says as much
            counts = np.bincount(thinned.reshape(-1), minlength=256)
            told["classes"] = [
                {"name": name, "color": list(color), "share": round(int(count) / thinned.size, 4)}
                for name, color, count in zip(spec.classes, spec.palette, counts, strict=False)
            ]
            told["frame"] = {
                "name": delivery.frame.name,
                "height": delivery.labels.shape[0],
                "width": delivery.labels.shape[1],
                "age_ms": round(1000 * delivery.age, 1),
                "seen_ms_ago": round(1000 * (time.monotonic() - delivery.frame.captured)),
            }
        return told

    def _newer(self, camera: int, after: int) -> bool:
        found = self._cameras.get(camera)
        return found is not None and found.number > after

    def _encode(self, camera: _Camera) -> None:
        """Draw and encode the newest frame; called with its drawing lock held."""
        with self._news:
            delivery, number = camera.delivery, camera.number
        assert delivery is not None, "numbered when it was delivered"
        image, labels = delivery.frame.image, delivery.labels
        step = -(-image.shape[1] // _WIDEST)
        spec = delivery.answer.spec
        drawn = camera.overlay(image[::step, ::step], labels[::step, ::step], spec)
        camera.encoded_at = time.monotonic()
        camera.encoded, camera.encoded_number = _jpeg(drawn, spec.color_order), number


@dataclass
class _Camera:
    """The newest of one camera."""

    overlay: Overlay
    delivery: Delivery | None = None
    number: int = 0
    """How many deliveries there were."""
    drawing: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever draws; it guards the rest and the overlay's arrays."""
    encoded: bytes = b""
    encoded_number: int = 0
    encoded_at: float = 0.0

    @property
    def outdated(self) -> bool:
        """Whether there is a newer delivery than the one that was encoded."""
        return self.encoded_number < self.number


@final
class _Server(socketserver.ThreadingTCPServer):
    """Connections in daemon threads, counted, and dropped when the preview closes."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = sys.platform != "win32"  # where it would let two programs share a port
    request_queue_size = 16

    def __init__(self, family: socket.AddressFamily, address: Any, host: str, preview: Preview) -> None:
        self.address_family = family
        self.preview = preview
        self.streams = 0
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()} if loopback else None
        super().__init__(address, _Handler)

    def trusts(self, host: str | None) -> bool:
        """Whether a request may carry this ``Host``.

        A page from anywhere can make a browser ask a loopback address under a name of its own (DNS
        rebinding), and would then read the answer.
        """
        if self._names is None or host is None:
            return True
        try:
            return urlsplit(f"//{host}").hostname in self._names
        except ValueError:
            return False

    def take_stream(self) -> bool:
        """Count a stream in, if there is room for it."""
        with self._lock:
            free = self.streams < MOST_STREAMS
            self.streams += free
        return free

    def leave_stream(self) -> None:
        """Count it out."""
        with self._lock:
            self.streams -= 1

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            free = len(self._clients) < _MOST_CONNECTIONS
            if free:
                self._clients.add(request)
        if free:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._clients.discard(request)
        super().close_request(request)

    def drop_clients(self) -> None:
        """End every connection, whatever its thread is doing."""
        with self._lock:
            for client in self._clients:
                with suppress(OSError):  # it is gone already
                    client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("preview: a client was lost", exc_info=True)


@final
class _Handler(BaseHTTPRequestHandler):
    """One request; the connection ends after it."""

    server: _Server
    server_version, sys_version = "fcn-deploy", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        if not self.server.trusts(self.headers.get("Host")):
            self._say(403, "this preview answers to localhost alone; serve it on another host to change that")
            return
        asked = urlsplit(self.path)
        route = _ROUTES.get(asked.path)
        if route is None:
            self._say(404, f"there is no such page; there are {', '.join(_ROUTES)}")
            return
        camera = parse_qs(asked.query).get("camera", ["0"])[-1]
        if not (camera.isascii() and camera.isdecimal() and len(camera) < 5):
            self._say(400, "camera must be a number, from 0")
            return
        route(self, int(camera))

    do_HEAD = do_GET

    def _not_allowed(self) -> None:
        self._say(405, "this can only be looked at: use GET", Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _not_allowed

    def page(self, camera: int) -> None:
        html = resources.files("fcn_deploy.camera").joinpath("preview.html").read_bytes()
        self._send(200, "text/html; charset=utf-8", html)

    def snapshot(self, camera: int) -> None:
        found = self.server.preview.picture(camera, after=0, patience=_FIRST)
        if found is None:
            self._say(503, f"camera {camera} has delivered no frame yet", **{"Retry-After": "1"})
        else:
            self._send(200, "image/jpeg", found[1])

    def stream(self, camera: int) -> None:
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        if self.command == "HEAD":
            self._send(200, kind, b"")
        elif not self.server.take_stream():
            self._say(503, f"{MOST_STREAMS} streams are being looked at already", **{"Retry-After": "5"})
        else:
            try:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                self._send(200, kind, f"--{_BOUNDARY}\r\n".encode(), whole=False)
                self._pictures(camera)
            finally:
                self.server.leave_stream()

    def _pictures(self, camera: int) -> None:
        """Pictures until the client or the preview goes away."""
        preview, number = self.server.preview, 0
        while not (preview.closed or self._client_is_gone()):
            found = preview.picture(camera, after=number, patience=1.0)
            if found is not None:
                number, picture = found
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                # Browsers show a picture once they have seen the boundary after it.
                self.wfile.write(head.encode() + picture + f"\r\n--{_BOUNDARY}\r\n".encode())

    def _client_is_gone(self) -> bool:
        """Whether the client hung up. While a camera is lost nothing is sent, so nothing else tells."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(self.timeout)

    def statistics(self, camera: int) -> None:
        told = self.server.preview.statistics
        whole = told().to_json() if told is not None else {}
        text = json.dumps({**whole, "preview": self.server.preview.seen(camera)}, allow_nan=False)
        self._send(200, "application/json", text.encode())

    def metrics(self, camera: int) -> None:
        told = self.server.preview.statistics
        if told is None:
            self._say(404, "this preview was given no statistics")
        else:
            self._send(200, "text/plain; version=0.0.4; charset=utf-8", told().prometheus().encode())

    def _say(self, status: int, sentence: str, **headers: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{sentence}\n".encode(), whole=True, **headers)

    def _send(self, status: int, kind: str, body: bytes, *, whole: bool = True, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if whole and not (self.command == "HEAD" and not body):
            self.send_header("Content-Length", str(len(body)))
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("preview: " + format, *args)


_ROUTES: dict[str, Callable[[_Handler, int], None]] = {
    "/": _Handler.page,
    "/stream.mjpg": _Handler.stream,
    "/snapshot.jpg": _Handler.snapshot,
    "/statistics.json": _Handler.statistics,
    "/metrics": _Handler.metrics,
}


_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "X-Content-Type-Options": "nosniff",
    # No other site may show the pictures, and the page itself loads from nowhere else.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'",
}


def _serve(host: str, port: int, preview: Preview) -> _Server:
    """A bound server.

    Raises:
        UsageError: there is no such host or port to serve on.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"a port is a number from 0 to 65535, not {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as exc:
        raise UsageError(f"{host} is no name or address of this machine; use 127.0.0.1") from exc
    try:
        return _Server(family, address, host, preview)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            told = f"port {port} on {host} is in use by another program; choose another one, or 0 for any"
        elif exc.errno == errno.EADDRNOTAVAIL:
            told = f"{host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its own"
        elif exc.errno in (errno.EACCES, errno.EPERM):
            told = f"port {port} may not be used by this account; choose one from 1024 up"
        else:
            told = f"cannot serve on {host} port {port}: {exc.strerror or exc}"
        raise UsageError(told) from exc


def _jpeg(picture: Picture, color_order: str) -> bytes:
    return _encoder()(picture, color_order)


@lru_cache(maxsize=1)
def _encoder() -> Callable[[Picture, str], bytes]:
    """What encodes JPEG here: OpenCV where it is installed, because it is faster, else Pillow."""
    return _by_opencv if installed("cv2") else _by_pillow


def _by_opencv(picture: Picture, color_order: str) -> bytes:
    cv2 = require("cv2", extra="opencv")
    ordered = picture if color_order == "bgr" else np.ascontiguousarray(picture[..., ::-1])
    encoded: bytes = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return encoded


def _by_pillow(picture: Picture, color_order: str) -> bytes:
    ordered = picture if color_order == "rgb" else np.ascontiguousarray(picture[..., ::-1])
    held = BytesIO()
    require("PIL.Image", extra="cpu").fromarray(ordered).save(held, format="JPEG", quality=_QUALITY)
    return held.getvalue()
