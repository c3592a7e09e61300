"""Label maps as a raw stream, for other programs."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink, StopPipeline
from fcn_deploy.errors import PipelineError, UsageError
from fcn_deploy.files import atomic_output


@final
class RawLabels(Sink):
    """Label maps one after the other as binary PGM: ``P5``, width and height, ``255``, one byte a pixel.

    ``ffmpeg -f image2pipe -c:v pgm -i -`` and Pillow read it. Each map is handed on at once. A reader
    that goes away ends the pipeline without an error; one that is slow slows it down. Maps of several
    cameras follow each other as they are delivered, each with a comment ``# camera N`` in its header.

    Args:
        to: a file, which takes its place when the sink is closed; a named pipe or device, which gets
            the maps at once; ``-`` for stdout; or a binary stream, which stays open.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, to: str | Path | BinaryIO, *, cameras: int = 1) -> None:
        self._cameras = cameras
        self._whole = 0
        """Bytes of whole maps."""
        self._torn = False
        """Whether a part of a map follows them."""
        self._opened = ExitStack()
        self._name = str(to) if isinstance(to, (str, Path)) else "the stream"
        self._stream, self._truncates = _byte_stream(to, self._opened)

    def __call__(self, delivery: Delivery) -> None:
        labels = np.ascontiguousarray(delivery.labels)
        comment = f"# camera {delivery.frame.camera}\n" if self._cameras > 1 else ""
        header = f"P5\n{comment}{labels.shape[1]} {labels.shape[0]}\n255\n".encode()
        try:
            self._cut()
            self._torn = True
            _write_all(self._stream, header)
            _write_all(self._stream, labels.data.cast("B"))
            self._stream.flush()
        except BrokenPipeError as exc:
            raise StopPipeline(f"{self._name} is read no more") from exc
        except OSError as exc:
            raise PipelineError(f"cannot write labels to {self._name}: {exc.strerror or exc}") from exc
        self._whole += len(header) + labels.nbytes
        self._torn = False

    def close(self) -> None:
        if self._truncates:
            self._cut()
            self._truncates = False
        self._opened.close()

    def _cut(self) -> None:
        """Take away a map that was interrupted, or for which there was no room: the next one follows
        the last whole one.

        Raises:
            OSError: it has gone out already, and what followed it would be read as its rest.
        """
        if not self._torn:
            return
        if not self._truncates:
            raise OSError("a map before it was cut short")
        self._stream.seek(self._whole)
        self._stream.truncate()
        self._torn = False


def _byte_stream(to: str | Path | BinaryIO, opened: ExitStack) -> tuple[Any, bool]:
    """Where bytes go, unbuffered, and whether it is a file of ours that can be cut to whole maps."""
    if not isinstance(to, (str, Path)):
        return to, False
    if str(to) == "-":
        return _stdout(opened), False
    path = Path(to)
    if path.exists() and not path.is_file() and not path.is_dir():  # a named pipe, a device
        try:
            return opened.enter_context(open(path, "wb", buffering=0)), False
        except OSError as exc:
            raise UsageError(f"cannot write to {path}: {exc.strerror}") from exc
    temporary = opened.enter_context(atomic_output(path))
    return opened.enter_context(open(temporary, "wb", buffering=0)), True


def _stdout(opened: ExitStack) -> Any:
    """Stdout for bytes, past Python's own buffer, which would keep what a closed pipe refused."""
    if sys.stdout.isatty():
        raise UsageError("labels are bytes and stdout is a terminal; pipe them into a program or a file")
    sys.stdout.flush()
    try:
        copy = os.dup(sys.stdout.fileno())
    except (OSError, ValueError):  # something in memory stands in for it
        return sys.stdout.buffer
    return opened.enter_context(open(copy, "wb", buffering=0))


def _write_all(stream: Any, data: bytes | memoryview) -> None:
    """Unbuffered streams may take a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
