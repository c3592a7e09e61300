"""Whether a URL's host can be reached, without OpenCV, whose own attempt to connect cannot be ended."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from urllib.parse import urlsplit

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
"""Schemes over TCP, and their default ports."""

_POLL_INTERVAL = 0.05
"""Seconds between two checks of ``stopping``."""


def host_unreachable(url: str, stopping: threading.Event, timeout: float) -> bool:
    """Whether a TCP connection to the URL's host gets no response; a refused connection is a response.

    Args:
        url: with any scheme; False for one that goes over UDP or through a proxy, which is not tested.
        stopping: ends the wait when it is set.
        timeout: seconds to wait.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:  # a password may hold characters that no URL may have
        return False
    proxied = parts.scheme.lower().startswith("http") and any(
        os.environ.get(name) for name in ("http_proxy", "https_proxy", "HTTPS_PROXY")
    )
    if parts.scheme.lower() not in _PORTS or proxied or not host or port is None:
        return False
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.setblocking(False)
            connection.connect_ex(address)
            limit = time.monotonic() + timeout
            while not select.select([], [connection], [], _POLL_INTERVAL)[1]:
                if stopping.is_set() or time.monotonic() >= limit:
                    return True
    except OSError:
        pass  # no such host, or no network: OpenCV reports that at once
    return False
