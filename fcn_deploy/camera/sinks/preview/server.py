"""The preview's HTTP server: where it listens, and how many connections and streams it takes."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, final
from urllib.parse import urlsplit

from fcn_deploy.errors import UsageError

log = logging.getLogger("fcn_deploy.camera")

MAX_STREAMS = 8
"""Streams that are served at once; one more is told to come back later."""

_MAX_CONNECTIONS = 32


@final
class PreviewServer(socketserver.ThreadingTCPServer):
    """Serves each connection in a daemon thread, counts them, and ends them when the preview closes.

    Args:
        family: of ``address``.
        address: what to listen on, as :func:`socket.getaddrinfo` gives it.
        host: the name or address that the user gave for it.
        handler: called with a request's socket, the client's address and this server.

    Raises:
        OSError: it cannot listen there.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = sys.platform != "win32"  # where it would let two programs share a port
    request_queue_size = 16

    def __init__(
        self, family: socket.AddressFamily, address: Any, host: str, handler: Callable[..., Any]
    ) -> None:
        self.address_family = family
        self.streams = 0
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()} if loopback else None
        super().__init__(address, handler)

    def trusts(self, host: str | None) -> bool:
        """Whether a request may carry this ``Host``.

        A page from anywhere can make a browser ask a loopback address under a name of its own (DNS
        rebinding), and would then read the response.
        """
        if self._names is None or host is None:
            return True
        try:
            return urlsplit(f"//{host}").hostname in self._names
        except ValueError:
            return False

    def begin_stream(self) -> bool:
        """Count a stream; False where there are :data:`MAX_STREAMS` already."""
        with self._lock:
            free = self.streams < MAX_STREAMS
            self.streams += free
        return free

    def end_stream(self) -> None:
        """A stream that was counted has ended."""
        with self._lock:
            self.streams -= 1

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            free = len(self._clients) < _MAX_CONNECTIONS
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
                with suppress(OSError):  # it is closed already
                    client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("preview: a connection was lost", exc_info=True)


def listen(host: str, port: int, handler: Callable[..., Any]) -> PreviewServer:
    """A server that listens.

    Args:
        host: a name or address of this machine.
        port: 0 takes any free one.
        handler: as for :class:`PreviewServer`.

    Raises:
        UsageError: there is no such host or port to listen on.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"a port is a number from 0 to 65535, not {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as exc:
        raise UsageError(f"{host} is no name or address of this machine; use 127.0.0.1") from exc
    try:
        return PreviewServer(family, address, host, handler)
    except OSError as exc:
        raise UsageError(_why_not(exc, host, port)) from exc


def _why_not(exc: OSError, host: str, port: int) -> str:
    """Why it cannot listen there, and what to do."""
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program; choose another one, or 0 for any"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} may not be used by this account; choose one from 1024 up"
    return f"cannot serve on {host} port {port}: {exc.strerror or exc}"
