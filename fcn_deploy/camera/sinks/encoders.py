"""Video encoders: the ffmpeg program, fed through a pipe, and OpenCV."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np

from fcn_deploy.draw import Picture
from fcn_deploy.lazy import installed, require

_MP4 = (".mp4", ".m4v", ".mov")

_FRAGMENT_SECONDS = 2.0
"""Length of the fragments that ffmpeg writes an MP4 in."""

_FFMPEG_TIMEOUT = 30.0
"""Seconds that ffmpeg may take no data, and that it may take to end."""

_MIN_FREE_BYTES = 8 << 20
"""Free space on the disk that OpenCV needs to finish its file."""

_DISK_CHECK_INTERVAL = 32
"""Pictures between two checks of the free space."""


class Encoder(ABC):
    """Writes one video. Used by one thread at a time."""

    problem = ""
    """What went wrong, in a few words; empty where nothing did."""

    @abstractmethod
    def write(self, picture: Picture) -> None:
        """Append a picture, contiguous uint8 ``[H, W, 3]`` of the encoder's size and colour order.

        Raises:
            OSError: nothing more can be written; its text says why.
        """

    @abstractmethod
    def finish(self, stretch: float = 1.0) -> int:
        """Finish the file; called once.

        Args:
            stretch: factor for the length of the video, applied where the encoder can.

        Returns:
            How many frames the file really holds.
        """

    @abstractmethod
    def abort(self) -> None:
        """Stop writing; the caller removes the file."""


@final
class Ffmpeg(Encoder):
    """H.264 by libx264 in the ffmpeg program, which reads raw pictures from a pipe.

    Args:
        path: an empty file to write into.
        size: even height and width.
        fps: frames per second.
        color_order: ``rgb`` or ``bgr``.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, color_order: str) -> None:
        self._path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by finish and abort
        rate = Fraction(fps).limit_denominator(1001)
        command = [
            *(_program(), "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pixel_format", f"{color_order}24", "-video_size", f"{size[1]}x{size[0]}"),
            *("-framerate", str(rate), "-i", "pipe:0", "-an"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"),
            *("-g", str(max(1, round(_FRAGMENT_SECONDS * fps))), *_container(path, growing=True)),
        ]
        # A session of its own: Ctrl-C in a terminal must not reach ffmpeg, only this process, which then
        # finishes the video with all its frames.
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )
        self._partial = False
        """Whether a picture was written only in part."""

    def write(self, picture: Picture) -> None:
        if self._partial:  # ffmpeg would take the next picture for the rest of that one
            raise OSError("the picture before it was written only in part")
        try:
            self._partial = True
            _write_all(self._process.stdin, picture.data.cast("B"))
            self._partial = False
        except BrokenPipeError as exc:
            self._end()
            raise OSError(self.problem or "ffmpeg ended on its own") from exc

    def finish(self, stretch: float = 1.0) -> int:
        self._end()
        remuxed = self._path.with_suffix(f".remuxed{self._path.suffix}")
        needed = self._path.suffix in _MP4 or stretch != 1
        target = _container(remuxed, growing=False) if needed else ["-f", "null", "-"]
        try:
            frames, problem = _remux(self._path, target, stretch)
            if remuxed.exists() and not problem:
                remuxed.replace(self._path)
            elif problem:  # no room for a second file: keep the fragments, and only count their frames
                frames, _ = _remux(self._path, ["-f", "null", "-"])
        finally:
            remuxed.unlink(missing_ok=True)
        return frames

    def abort(self) -> None:
        self._process.kill()
        self._end()

    def _end(self) -> None:
        """Close the pipe, wait until ffmpeg has written the rest, and note its error message."""
        if self._errors.closed:
            return
        assert self._process.stdin is not None, "Popen was called with stdin=PIPE"
        self._process.stdin.close()
        try:
            self._process.wait(_FFMPEG_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self.problem = f"ffmpeg did not end within {_FFMPEG_TIMEOUT:.0f} s"
        self._errors.seek(0)
        self.problem = self.problem or _problem(self._errors.read(), self._process.returncode)
        self._errors.close()


@final
class OpenCv(Encoder):
    """Videos by OpenCV. It does not report a failed write, so the free space and the file are checked.

    Args:
        path: an empty file to write into.
        size: even height and width.
        fps: frames per second.
        color_order: ``rgb`` or ``bgr``.
        codec: the FOURCC.

    Raises:
        OSError: OpenCV cannot open it with that codec.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], fps: float, color_order: str, *, codec: str
    ) -> None:
        self._cv2 = require("cv2", extra="opencv")
        self._path, self._reverse, self._written = path, color_order == "rgb", 0
        fourcc = self._cv2.VideoWriter_fourcc(*codec)
        self._writer = self._cv2.VideoWriter(str(path), fourcc, fps, (size[1], size[0]))
        if not self._writer.isOpened():
            raise OSError(f"OpenCV cannot open it as {codec}")

    def write(self, picture: Picture) -> None:
        check = self._written % _DISK_CHECK_INTERVAL == 0
        if check and shutil.disk_usage(self._path.parent).free < _MIN_FREE_BYTES:
            self.problem = "the disk is full"
            raise OSError(self.problem)
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]) if self._reverse else picture)
        self._written += 1

    def finish(self, stretch: float = 1.0) -> int:
        self._writer.release()  # the rate cannot be changed any more, so stretch is not applied
        capture = self._cv2.VideoCapture(str(self._path))
        found = int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if found < self._written:
            self.problem = self.problem or "is the disk full?"
        return max(0, found)

    def abort(self) -> None:
        self._writer.release()


def why_no_ffmpeg() -> str | None:
    """Why the ffmpeg program cannot encode H.264 here; None where it can."""
    program = shutil.which("ffmpeg")
    if program is None:
        return "there is no ffmpeg program; install ffmpeg with the system's package manager"
    return _why_no_libx264(program)


def why_no_opencv() -> str | None:
    """Why OpenCV cannot write videos here; None where it can."""
    return None if installed("cv2") else "OpenCV is not installed; run: pip install 'fcn-deploy[opencv]'"


@lru_cache(maxsize=1)
def why_no_opencv_h264() -> str | None:
    """Why OpenCV cannot encode H.264 here, tested by opening one; None where it can."""
    if reason := why_no_opencv():
        return reason
    with tempfile.TemporaryDirectory() as folder:
        try:
            OpenCv(Path(folder) / "try.mp4", (480, 640), 25.0, "bgr", codec="avc1").abort()
        except OSError:
            return "this OpenCV's FFmpeg has no H.264 encoder that runs here"
    return None


@lru_cache(maxsize=4)
def _why_no_libx264(program: str) -> str | None:
    try:
        found = subprocess.run(
            [program, "-hide_banner", "-encoders"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{program} does not run ({exc})"
    return None if b" libx264 " in found.stdout else f"{program} was built without libx264"


def _program() -> str:
    return shutil.which("ffmpeg") or "ffmpeg"


def _container(path: Path, *, growing: bool) -> list[str]:
    """Options for the container: fragments while it grows, the index in front once it is complete."""
    target = f"file:{path}"  # without "file:" a colon in the name would mean a protocol
    if path.suffix == ".mkv":
        return ["-f", "matroska", "-flush_packets", "1", target]
    flags = "+frag_keyframe+empty_moov+default_base_moof" if growing else "+faststart"
    kind = "mov" if path.suffix == ".mov" else "mp4"
    return ["-movflags", flags, "-flush_packets", "1", "-f", kind, target]


def _remux(path: Path, target: Sequence[str], stretch: float = 1.0) -> tuple[int, str]:
    """Copy a video's packets into another file. Returns the number of frames and ffmpeg's problem."""
    scale = ["-itsscale", f"{stretch:.6f}"] if stretch != 1 else []
    copying = [*(*scale, "-i", f"file:{path}", "-map", "0:v:0", "-c", "copy"), *target]
    done = subprocess.run(
        [_program(), "-hide_banner", "-loglevel", "error", "-nostats", "-progress", "pipe:1", "-y", *copying],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    )
    counts = [line[6:] for line in done.stdout.split() if line.startswith(b"frame=")]
    return int(counts[-1]) if counts else 0, _problem(done.stderr, done.returncode)


def _problem(errors: bytes, code: int) -> str:
    """What went wrong, from ffmpeg's messages and exit code; empty where nothing did."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    if "No space left on device" in " ".join(lines):
        return "the disk is full"
    if code:
        return f"ffmpeg: {lines[-1].strip()}" if lines else f"ffmpeg ended with {code}"
    return ""


def _write_all(pipe: Any, data: memoryview) -> None:
    """Write all of it into a pipe.

    Raises:
        BrokenPipeError: the other end is closed.
        TimeoutError: ffmpeg took nothing for :data:`_FFMPEG_TIMEOUT`.
    """
    if sys.platform == "win32":  # where a selector takes sockets only
        while data:
            data = data[pipe.write(data) :]
        return
    os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_WRITE)
        while data:
            if not selector.select(_FFMPEG_TIMEOUT):
                raise TimeoutError(f"ffmpeg took nothing for {_FFMPEG_TIMEOUT:.0f} s")
            try:
                data = data[os.write(pipe.fileno(), data) :]
            except BlockingIOError:
                continue
