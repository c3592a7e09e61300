"""The preview's HTTP requests: the page, streams, snapshots, statistics and metrics."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from fcn_deploy.camera.sinks.preview.content import PreviewContent
from fcn_deploy.camera.sinks.preview.server import MAX_STREAMS, PreviewServer

log = logging.getLogger("fcn_deploy.camera")

_TIMEOUT = 10.0
"""Seconds that a client may take to send its request, or to receive what it is sent."""

_FIRST_FRAME_TIMEOUT = 5.0
"""Seconds that a snapshot waits for the first frame."""

_SEND_BUFFER = 256 << 10
"""Bytes that may wait in the system for a slow connection: they limit how far behind it can be."""

_BOUNDARY = "frame"

_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "X-Content-Type-Options": "nosniff",
    # No other site may show the pictures, and the page itself loads from nowhere else.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'",
}


@final
class RequestHandler(BaseHTTPRequestHandler):
    """One request; the connection ends after it.

    Args:
        content: what is shown.
        request: as for :class:`socketserver.BaseRequestHandler`, and the two that follow.
    """

    server: PreviewServer
    server_version, sys_version = "fcn-deploy", ""
    timeout = _TIMEOUT

    def __init__(self, content: PreviewContent, request: Any, client_address: Any, server: Any) -> None:
        self._content = content
        super().__init__(request, client_address, server)  # handles the request

    def do_GET(self) -> None:
        if not self.server.trusts(self.headers.get("Host")):
            self._send_text(
                403, "this preview takes requests for localhost only; serve it on another host to change that"
            )
            return
        url = urlsplit(self.path)
        page = _PAGES.get(url.path)
        if page is None:
            self._send_text(404, f"there is no such page; there are {', '.join(_PAGES)}")
            return
        camera = parse_qs(url.query).get("camera", ["0"])[-1]
        if not (camera.isascii() and camera.isdecimal() and len(camera) < 5):
            self._send_text(400, "camera must be a number, from 0")
            return
        page(self, int(camera))

    do_HEAD = do_GET

    def _not_allowed(self) -> None:
        self._send_text(405, "only GET and HEAD are allowed", Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _not_allowed

    def page(self, camera: int) -> None:
        html = resources.files(__package__).joinpath("page.html").read_bytes()
        self._send(200, "text/html; charset=utf-8", html)

    def snapshot(self, camera: int) -> None:
        found = self._content.picture(camera, after=0, timeout=_FIRST_FRAME_TIMEOUT)
        if found is None:
            self._send_text(503, f"camera {camera} has delivered no frame yet", **{"Retry-After": "1"})
        else:
            self._send(200, "image/jpeg", found[1])

    def stream(self, camera: int) -> None:
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        if self.command == "HEAD":
            self._send(200, kind, b"")
        elif not self.server.begin_stream():
            self._send_text(503, f"there are {MAX_STREAMS} viewers already", **{"Retry-After": "5"})
        else:
            try:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                self._send(200, kind, f"--{_BOUNDARY}\r\n".encode(), whole=False)
                self._send_pictures(camera)
            finally:
                self.server.end_stream()

    def _send_pictures(self, camera: int) -> None:
        """Send pictures until the client disconnects or the preview closes."""
        number = 0
        while not (self._content.closed or self._client_is_gone()):
            found = self._content.picture(camera, after=number, timeout=1.0)
            if found is not None:
                number, picture = found
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                # Browsers show a picture once they have seen the boundary after it.
                self.wfile.write(head.encode() + picture + f"\r\n--{_BOUNDARY}\r\n".encode())

    def _client_is_gone(self) -> bool:
        """Whether the client has disconnected. While a camera is lost no write would find that out."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(self.timeout)

    def statistics(self, camera: int) -> None:
        statistics = self._content.statistics
        report = statistics().to_json() if statistics is not None else {}
        preview = {**self._content.summary(camera), "watching": self.server.streams}
        text = json.dumps({**report, "preview": preview}, allow_nan=False)
        self._send(200, "application/json", text.encode())

    def metrics(self, camera: int) -> None:
        statistics = self._content.statistics
        if statistics is None:
            self._send_text(404, "this preview was given no statistics")
        else:
            self._send(200, "text/plain; version=0.0.4; charset=utf-8", statistics().prometheus().encode())

    def _send_text(self, status: int, sentence: str, **headers: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{sentence}\n".encode(), whole=True, **headers)

    def _send(self, status: int, kind: str, body: bytes, *, whole: bool = True, **headers: str) -> None:
        """Send a response; ``whole`` is whether ``body`` is all of it."""
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


_PAGES: dict[str, Callable[[RequestHandler, int], None]] = {
    "/": RequestHandler.page,
    "/stream.mjpg": RequestHandler.stream,
    "/snapshot.jpg": RequestHandler.snapshot,
    "/statistics.json": RequestHandler.statistics,
    "/metrics": RequestHandler.metrics,
}
