"""What encodes a video: the ffmpeg program through a pipe, or OpenCV."""

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
from numpy.typing import NDArray

from fcn_deploy.lazy import installed, require

Picture = NDArray[np.uint8]


_MP4 = (".mp4", ".m4v", ".mov")


_FRAGMENT = 2.0
"""Seconds of video that an MP4 gets at a time while it grows."""


_PATIENCE = 30.0
"""Seconds that ffmpeg may take no picture, and that it may take to end."""


_ROOM = 8 << 20
"""Bytes that must be left on the disk for OpenCV to end its file."""


_LOOK = 32
"""Pictures between two looks at the disk."""


class Encoder(ABC):
    """One video being written. Used by one thread at a time."""

    complaint = ""
    """What went wrong, in a few words."""

    @abstractmethod
    def write(self, picture: Picture) -> None:
        """Append a picture, contiguous uint8 ``[H, W, 3]`` of the size and colour order agreed on.

        Raises:
            OSError: no more can be written; its text says why.
        """

    @abstractmethod
    def finish(self, stretch: float = 1.0) -> int:
        """End the file; called once.

        Args:
            stretch: how many times longer it is to last than its rate says, where that can be set.

        Returns:
            How many frames it really holds.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Stop; the file is going to be removed."""


@final
class Ffmpeg(Encoder):
    """H.264 by libx264 in the ffmpeg program, which gets raw pictures through a pipe.

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
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by finish and abandon
        rate = Fraction(fps).limit_denominator(1001)
        command = [
            *(_program(), "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pixel_format", f"{color_order}24", "-video_size", f"{size[1]}x{size[0]}"),
            *("-framerate", str(rate), "-i", "pipe:0", "-an"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"),
            *("-g", str(max(1, round(_FRAGMENT * fps))), *_container(path, growing=True)),
        ]
        # A session of its own: Ctrl-C in a terminal must reach this process alone, which then ends
        # the video with all its frames.
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )
        self._torn = False

    def write(self, picture: Picture) -> None:
        if self._torn:  # what follows half a picture would be shifted by the other half
            raise OSError("a picture before it was interrupted")
        try:
            self._torn = True
            _push(self._process.stdin, picture.data.cast("B"))
            self._torn = False
        except BrokenPipeError as exc:
            self._end()
            raise OSError(self.complaint or "ffmpeg ended on its own") from exc

    def finish(self, stretch: float = 1.0) -> int:
        self._end()
        whole = self._path.with_suffix(f".whole{self._path.suffix}")
        again = self._path.suffix in _MP4 or stretch != 1
        into = _container(whole, growing=False) if again else ["-f", "null", "-"]
        try:
            frames, complaint = _copied(self._path, into, stretch)
            if whole.exists() and not complaint:
                whole.replace(self._path)
            elif complaint:  # no room for a second file: the fragments stay, and are counted alone
                frames, _ = _copied(self._path, ["-f", "null", "-"])
        finally:
            whole.unlink(missing_ok=True)
        return frames

    def abandon(self) -> None:
        self._process.kill()
        self._end()

    def _end(self) -> None:
        """Close the pipe, wait until ffmpeg has written the rest, and note what it complained about."""
        if self._errors.closed:
            return
        assert self._process.stdin is not None, "asked for in Popen"
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self.complaint = f"ffmpeg did not end within {_PATIENCE:.0f} s"
        self._errors.seek(0)
        self.complaint = self.complaint or _in_words(self._errors.read(), self._process.returncode)
        self._errors.close()


@final
class OpenCv(Encoder):
    """What OpenCV can encode. It never says that a write failed, so the disk and the file are asked.

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
        if self._written % _LOOK == 0 and shutil.disk_usage(self._path.parent).free < _ROOM:
            self.complaint = "the disk is full"
            raise OSError(self.complaint)
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]) if self._reverse else picture)
        self._written += 1

    def finish(self, stretch: float = 1.0) -> int:
        self._writer.release()  # its rate was fixed when it was opened
        capture = self._cv2.VideoCapture(str(self._path))
        found = int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if found < self._written:
            self.complaint = self.complaint or "is the disk full?"
        return max(0, found)

    def abandon(self) -> None:
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
    """Why OpenCV cannot encode H.264 here, found out by trying; None where it can."""
    if reason := why_no_opencv():
        return reason
    with tempfile.TemporaryDirectory() as folder:
        try:
            OpenCv(Path(folder) / "try.mp4", (480, 640), 25.0, "bgr", codec="avc1").abandon()
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
    """Options for the file itself: in fragments while it grows, its index in front once it is whole."""
    place = f"file:{path}"  # a colon in the name would be taken for a protocol
    if path.suffix == ".mkv":
        return ["-f", "matroska", "-flush_packets", "1", place]
    flags = "+frag_keyframe+empty_moov+default_base_moof" if growing else "+faststart"
    return ["-movflags", flags, "-flush_packets", "1", "-f", "mov" if path.suffix == ".mov" else "mp4", place]


def _copied(path: Path, into: Sequence[str], stretch: float = 1.0) -> tuple[int, str]:
    """Copy a video's packets. Returns how many frames there were, and what ffmpeg complained about."""
    pace = ["-itsscale", f"{stretch:.6f}"] if stretch != 1 else []
    copying = [*(*pace, "-i", f"file:{path}", "-map", "0:v:0", "-c", "copy"), *into]
    done = subprocess.run(
        [_program(), "-hide_banner", "-loglevel", "error", "-nostats", "-progress", "pipe:1", "-y", *copying],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    )
    counts = [line[6:] for line in done.stdout.split() if line.startswith(b"frame=")]
    return int(counts[-1]) if counts else 0, _in_words(done.stderr, done.returncode)


def _in_words(errors: bytes, code: int) -> str:
    """What went wrong, from ffmpeg's last words; empty where nothing did."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    if "No space left on device" in " ".join(lines):
        return "the disk is full"
    if code:
        return f"ffmpeg: {lines[-1].strip()}" if lines else f"ffmpeg ended with {code}"
    return ""


def _push(pipe: Any, data: memoryview) -> None:
    """Write all of it into a pipe.

    Raises:
        BrokenPipeError: the other end is closed.
        TimeoutError: nothing was taken for a long time.
    """
    if sys.platform == "win32":  # whose pipes cannot be waited for
        while data:
            data = data[pipe.write(data) :]
        return
    os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_WRITE)
        while data:
            if not selector.select(_PATIENCE):
                raise TimeoutError(f"ffmpeg took nothing for {_PATIENCE:.0f} s")
            try:
                data = data[os.write(pipe.fileno(), data) :]
            except BlockingIOError:
                continue
