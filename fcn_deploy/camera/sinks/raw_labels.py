"""Label maps as a binary stream, for other programs."""

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

    ``ffmpeg -f image2pipe -c:v pgm -i -`` and Pillow read it. Each map is written at once, without a
    buffer. A reader that closes the pipe ends the pipeline without an error; a slow reader slows it down.
    Maps of several cameras are written in the order of delivery, each with a comment ``# camera N`` in its
    header.

    Args:
        to: a file, which is put in place when the sink is closed; a named pipe or device, which is
            written to directly; ``-`` for stdout; or a binary stream, which stays open.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, to: str | Path | BinaryIO, *, cameras: int = 1) -> None:
        self._cameras = cameras
        self._complete = 0
        """Bytes of complete maps."""
        self._partial = False
        """Whether a part of a map follows them."""
        self._opened = ExitStack()
        self._name = str(to) if isinstance(to, (str, Path)) else "the stream"
        self._stream, self._truncates = _byte_stream(to, self._opened)

    def __call__(self, delivery: Delivery) -> None:
        labels = np.ascontiguousarray(delivery.labels)
        comment = f"# camera {delivery.frame.camera}\n" if self._cameras > 1 else ""
        header = f"P5\n{comment}{labels.shape[1]} {labels.shape[0]}\n255\n".encode()
        try:
            self._remove_partial()
            self._partial = True
            _write_all(self._stream, header)
            _write_all(self._stream, labels.data.cast("B"))
            self._stream.flush()
        except BrokenPipeError as exc:
            raise StopPipeline(f"the reader of {self._name} has closed it") from exc
        except OSError as exc:
            raise PipelineError(f"cannot write labels to {self._name}: {exc.strerror or exc}") from exc
        self._complete += len(header) + labels.nbytes
        self._partial = False

    def close(self) -> None:
        if self._truncates:
            self._remove_partial()
            self._truncates = False
        self._opened.close()

    def _remove_partial(self) -> None:
        """Remove a map that was written in part, so that the next one follows the last complete one.

        Raises:
            OSError: it cannot be removed, because it is in a pipe or stream; what followed it would be
                read as its rest.
        """
        if not self._partial:
            return
        if not self._truncates:
            raise OSError("the map before it was written only in part")
        self._stream.seek(self._complete)
        self._stream.truncate()
        self._partial = False


def _byte_stream(to: str | Path | BinaryIO, opened: ExitStack) -> tuple[Any, bool]:
    """The stream to write to, unbuffered, and whether it is a file that can be truncated."""
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
    """Stdout for bytes, without Python's buffer, which would keep what a closed pipe did not take."""
    if sys.stdout.isatty():
        raise UsageError("labels are bytes and stdout is a terminal; pipe them into a program or a file")
    sys.stdout.flush()
    try:
        copy = os.dup(sys.stdout.fileno())
    except (OSError, ValueError):  # it is replaced by a stream in memory
        return sys.stdout.buffer
    return opened.enter_context(open(copy, "wb", buffering=0))


def _write_all(stream: Any, data: bytes | memoryview) -> None:
    """Write all of it; an unbuffered stream may take a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
