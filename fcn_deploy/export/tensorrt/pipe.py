"""Messages from the process that builds to its parent: one JSON object a line.

Each has one key: ``step``, ``warning``, ``timings`` or ``log`` during the build, and ``built`` or
``error`` as the last one.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import traceback
from typing import IO, Any

from fcn_deploy import errors
from fcn_deploy.export.tensorrt.request import Built, Reporter

LOGGER = "fcn_deploy.tensorrt"
"""Where TensorRT's log goes, in either process."""


class ChildTraceback(Exception):
    """Where an error came from in the child: the cause of the same error in the parent."""


class Sender(logging.Handler):
    """The child's end: a :class:`Reporter`, and a handler for TensorRT's log.

    Args:
        stream: the pipe.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream

    def step(self, text: str) -> None:
        """See :class:`Reporter`."""
        self._send("step", text)

    def warn(self, text: str) -> None:
        """See :class:`Reporter`."""
        self._send("warning", text)

    def timings(self, data: bytes) -> None:
        """See :class:`Reporter`."""
        self._send("timings", base64.b64encode(data).decode())

    def emit(self, record: logging.LogRecord) -> None:
        """One message of TensorRT's log."""
        self._send("log", {"level": record.levelno, "text": record.getMessage()})

    def built(self, built: Built) -> None:
        """The engine is written."""
        self._send("built", built.to_dict())

    def error(self, exc: Exception) -> None:
        """The build has failed."""
        kind, text = _in_words(exc)
        self._send("error", {"class": kind, "text": text, "traceback": traceback.format_exc()})

    def _send(self, kind: str, value: Any) -> None:
        line = json.dumps({kind: value}).encode() + b"\n"
        self.acquire()  # threads of TensorRT send too
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError:  # the parent is gone
            os._exit(1)
        finally:
            self.release()


def _in_words(exc: Exception) -> tuple[str, str]:
    """The class that the parent raises, and its message."""
    if isinstance(exc, errors.FcnDeployError):
        # A class such as DeviceLost is not public: the nearest of its bases is.
        public = next(base for base in type(exc).__mro__ if vars(errors).get(base.__name__) is base)
        return public.__name__, str(exc)
    if isinstance(exc, MemoryError):
        return "EngineError", "the build ran out of memory; lower the profile's maximum, or use --fp16"
    first = (str(exc).strip().splitlines() or [""])[0]
    return "EngineError", f"the build failed with an unexpected {type(exc).__name__}: {first}"


def receive(line: bytes, reporter: Reporter) -> Built | None:
    """The parent's end: handle one message.

    Args:
        line: what was read. A line that is no message is ignored: something in the child has printed it
            before stdout was redirected.
        reporter: receives steps, warnings and timings.

    Returns:
        What was built; None where the build continues.

    Raises:
        FcnDeployError: the one that ended the build, its class and message as in the child.
    """
    kind, value = _parse(line)
    if kind == "built":
        return Built.from_dict(value)
    if kind == "error":
        raise _error_class(value["class"])(value["text"]) from ChildTraceback(value["traceback"])
    if kind == "log":
        logging.getLogger(LOGGER).log(value["level"], "%s", value["text"])
    elif kind == "timings":
        reporter.timings(base64.b64decode(value))
    elif kind == "warning":
        reporter.warn(value)
    elif kind == "step":
        reporter.step(value)
    return None


def _parse(line: bytes) -> tuple[str | None, Any]:
    """A message's key and value; None and None where the line is no message."""
    try:
        message = json.loads(line)
    except ValueError:
        return None, None
    if not isinstance(message, dict) or len(message) != 1:
        return None, None
    [(kind, value)] = message.items()
    return kind, value


def _error_class(name: str) -> type[errors.FcnDeployError]:
    """A class of :mod:`fcn_deploy.errors` by name; EngineError where there is none of this name."""
    found = getattr(errors, name, None)
    return found if isinstance(found, type) else errors.EngineError
