"""Parses what the user gives as a source, and hides the passwords in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fcn_deploy.errors import UsageError

STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "rtp", "tcp", "srt", "rtmp", "rtmps")
"""Schemes of URLs that FFmpeg opens as streams."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_HIDDEN = "***"

# Words that cameras put before a secret, in a query, a path ("/user=admin_password=…") or a property.
_SECRET = r"(?:pass|pwd|psw|pw|secret|token|key|auth|sig|sess|user|login|credential)"

_ASSIGNED = re.compile(rf"([\w-]*{_SECRET}[\w-]*)=(\"[^\"]*\"|'[^']*'|[^&;/?#\s]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A parsed source."""

    kind: str
    """``file``, ``device``, ``url``, ``csi`` or ``gstreamer``."""
    target: str | int
    """A path, a device's number or path, a URL, a sensor's number, or a pipeline."""
    name: str
    """For messages: passwords are hidden."""


def parse_address(what: str | int | Path) -> Address:
    """Parse what a source is given as.

    Args:
        what: a number or ``/dev/...`` is a V4L2 device, text with `` ! `` a GStreamer pipeline,
            ``csi://N`` a Jetson's camera, another ``scheme://`` a stream, anything else a path.

    Raises:
        UsageError: it is empty or a negative number, or its scheme or sensor is unknown.
    """
    if isinstance(what, Path):
        return Address("file", str(what), str(what))
    if isinstance(what, int):
        return _device(what)
    text = what.strip()
    if not text:
        raise UsageError("the source is empty; give a path, a device such as 0, or a URL")
    if " ! " in text:
        return Address("gstreamer", text, redacted(text))
    if text.isdecimal() and text.isascii():
        return _device(int(text))
    if text.startswith("/dev/"):
        return Address("device", text, text)
    found = _SCHEME.match(text)
    return Address("file", text, text) if found is None else _url(text, found[1].lower())


def redacted(text: str) -> str:
    """A URL or a pipeline with users, passwords and tokens replaced by ``***``.

    Everything from ``://`` to the last ``@`` is replaced, because passwords hold any character; so is a
    path with an ``@`` in it, and the value of each parameter that is named like a secret.
    """
    within = r"[^\s\"']*" if " ! " in text else r".*"
    hidden = re.sub(rf"://{within}@", f"://{_HIDDEN}@", text, flags=re.DOTALL)
    return _ASSIGNED.sub(rf"\1={_HIDDEN}", hidden)


def _device(number: int) -> Address:
    if number < 0:
        raise UsageError(f"a camera's number is 0 or more, not {number}")
    return Address("device", number, f"camera {number}")


def _url(text: str, scheme: str) -> Address:
    if scheme == "csi":
        sensor = text.partition("://")[2]
        if not (sensor.isdecimal() and sensor.isascii()):
            raise UsageError(
                f"a Jetson's camera is csi:// and the sensor's number, such as csi://0, not {redacted(text)}"
            )
        return Address("csi", int(sensor), f"csi://{int(sensor)}")
    if scheme == "file":
        path = unquote(urlsplit(text).path)
        return Address("file", path, path)
    if scheme not in STREAM_SCHEMES:
        known = ", ".join(("csi", "file", *STREAM_SCHEMES))
        raise UsageError(f"{redacted(text)} has an unknown scheme; choose from {known}, or give a path")
    return Address("url", text, redacted(text))
