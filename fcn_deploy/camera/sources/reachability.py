"""Whether anybody answers at a URL's host, asked without OpenCV, whose own attempt cannot be ended."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from urllib.parse import urlsplit

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}


_LOOK = 0.05
"""Seconds between two looks at ``stopping``."""


def host_unreachable(url: str, stopping: threading.Event, patience: float) -> bool:
    """Whether a TCP connection to the URL's host gets no answer at all; a refusal is an answer.

    Args:
        url: with any scheme; where it goes over UDP or a proxy, there is nothing to be found out.
        stopping: ends the wait when it is set.
        patience: seconds to wait.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:  # passwords may hold what no URL does
        return False
    proxied = parts.scheme.lower().startswith("http") and any(
        os.environ.get(name) for name in ("http_proxy", "https_proxy", "HTTPS_PROXY")
    )
    if parts.scheme.lower() not in _PORTS or proxied or not host or port is None:
        return False
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as knocking:
            knocking.setblocking(False)
            knocking.connect_ex(address)
            limit = time.monotonic() + patience
            while not select.select([], [knocking], [], _LOOK)[1]:
                if stopping.is_set() or time.monotonic() >= limit:
                    return True
    except OSError:
        pass  # no such host, or no network: OpenCV finds that out at once, and says so
    return False
