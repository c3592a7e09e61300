"""Where ``run`` puts its answers: pictures, label maps, heat maps, a video, a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.cli import options
from fcn_deploy.errors import BackendUnavailable, UsageError
from fcn_deploy.files import atomic_output, output_folder
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fcn_deploy.datasets import Frame
    from fcn_deploy.runtimes.base import Segmentation

    Picture = NDArray[np.uint8]
    Sink = Callable[[Frame, Segmentation], None]

VIDEOS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
"""Suffix -> codec that every OpenCV build can write."""


class WindowClosed(Exception):
    """The user closed the window, or pressed q or Esc in it."""


def overlay_sink(path: Path, *, single: bool, fps: float, alpha: float, opened: ExitStack) -> Sink:
    """Frames with their labels drawn over them: a picture, a video, or a folder of pictures.

    Args:
        path: its suffix decides; without one it is a folder.
        single: whether the source is one image.
        fps: frames per second of a video.
        alpha: weight of the labels' colours, 0 to 1.
        opened: closes what was opened, and only then does a video take its place.

    Raises:
        UsageError: the suffix is unknown, or names one picture for many frames.
    """
    from fcn_deploy.draw import overlay

    write = _picture_writer(path, single, fps, opened)

    def sink(frame: Frame, answer: Segmentation) -> None:
        drawn = overlay(frame.image, answer.labels[0], answer.spec, alpha=alpha)
        write(frame, drawn[..., ::-1] if answer.spec.color_order == "bgr" else drawn)

    return sink


def _picture_writer(
    path: Path, single: bool, fps: float, opened: ExitStack
) -> Callable[[Frame, Picture], None]:
    """A function that writes RGB pictures to where ``path`` says."""
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        write = opened.enter_context(video_file(path, fps))
        return lambda frame, picture: write(picture)
    if suffix in options.PICTURES:
        if not single:
            raise UsageError(
                f"--overlay {path} is one picture and the source has many frames; name a video "
                "(.mp4) or a folder"
            )
        return lambda frame, picture: write_picture(path, picture)
    if suffix:
        raise UsageError(
            f"--overlay {path}: expected a video ({', '.join(VIDEOS)}), a picture "
            f"({', '.join(options.PICTURES)}) or a folder without a suffix"
        )
    folder = _Folder(path)
    return lambda frame, picture: write_picture(folder.place(frame), picture)


def labels_sink(path: Path) -> Sink:
    """Label maps as palette PNGs, one a frame: value = class id."""
    from fcn_deploy.datasets import write_labels

    folder = _Folder(path)

    def sink(frame: Frame, answer: Segmentation) -> None:
        write_labels(folder.place(frame), answer.labels[0], answer.spec.palette)

    return sink


def confidence_sink(path: Path) -> Sink:
    """Heat maps of the confidence as PNGs, one a frame."""
    from fcn_deploy.draw import heat_map

    folder = _Folder(path)

    def sink(frame: Frame, answer: Segmentation) -> None:
        assert answer.confidence is not None, "refused before the first frame"
        write_picture(folder.place(frame), heat_map(answer.confidence[0]))

    return sink


def window_sink(*, single: bool, alpha: float, opened: ExitStack) -> Sink:
    """A window that shows each overlay; one image stays until a key is pressed.

    Raises:
        BackendUnavailable: there is no display, or this OpenCV has no windows.
    """
    cv2 = require("cv2", extra="opencv")
    # Qt ends the whole process where it finds no display, so it must not be asked.
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise BackendUnavailable("--show needs a display and there is none here; use --overlay instead")
    from fcn_deploy.draw import overlay

    title = "fcn-deploy"
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)
    except cv2.error as exc:
        raise BackendUnavailable(
            "this OpenCV was built without windows (opencv-python-headless?); use --overlay instead"
        ) from exc
    opened.callback(cv2.destroyAllWindows)

    def sink(frame: Frame, answer: Segmentation) -> None:
        drawn = overlay(frame.image, answer.labels[0], answer.spec, alpha=alpha)
        cv2.imshow(title, drawn if answer.spec.color_order == "bgr" else drawn[..., ::-1])
        key = cv2.waitKey(0 if single else 1) & 0xFF
        if key in (27, ord("q")) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            raise WindowClosed

    return sink


@contextmanager
def video_file(path: Path, fps: float) -> Iterator[Callable[[Picture], None]]:
    """A video that takes its place when the block ends without error.

    Yields:
        A function that appends an RGB picture, uint8 ``[H, W, 3]``. The first one decides the
        size; others are scaled into it.

    Raises:
        UsageError: it cannot be written, or does not hold every frame afterwards.
    """
    cv2 = require("cv2", extra="opencv")
    with atomic_output(path) as temporary:
        writer: Any = None
        size = (0, 0)
        written = 0

        def write(picture: Picture) -> None:
            nonlocal writer, size, written
            if writer is None:
                height, width = picture.shape[:2]
                size = (height + height % 2, width + width % 2)  # codecs want even numbers
                codec = cv2.VideoWriter_fourcc(*VIDEOS[path.suffix.lower()])
                writer = cv2.VideoWriter(str(temporary), codec, fps, (size[1], size[0]))
                if not writer.isOpened():
                    raise UsageError(f"OpenCV cannot write {path} at {size[0]}x{size[1]}; name a folder")
            writer.write(_fitted(cv2, picture, size)[..., ::-1].copy())
            written += 1

        try:
            yield write
        finally:
            if writer is not None:
                writer.release()
        _check_video(cv2, temporary, path, written)


def _check_video(cv2: Any, temporary: Path, path: Path, written: int) -> None:
    """OpenCV reports no failed write, so the finished file is asked what it holds."""
    capture = cv2.VideoCapture(str(temporary))
    found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if found < written:
        raise UsageError(
            f"{path} was not written: {found} of {written} frames arrived in the file; is the disk full?"
        )


def _fitted(cv2: Any, picture: Picture, size: tuple[int, int]) -> Picture:
    """``picture`` within ``size`` (height, width): scaled down or up to fit, black around it."""
    height, width = picture.shape[:2]
    if (height, width) != size:
        if abs(height - size[0]) > 1 or abs(width - size[1]) > 1:
            scale = min(size[0] / height, size[1] / width)
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        picture = cv2.copyMakeBorder(
            picture, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
    return picture


def write_picture(path: Path, picture: Picture) -> None:
    """Write an RGB picture, uint8 ``[H, W, 3]``, atomically; the suffix decides the format.

    Raises:
        UsageError: it cannot be written.
    """
    image = require("PIL.Image", extra="cpu").fromarray(picture)
    with atomic_output(path) as temporary:
        image.save(temporary)


class _Folder:
    """A folder that gets one PNG a frame; the source's own folders are kept."""

    def __init__(self, path: Path) -> None:
        self.path = output_folder(path)
        self._taken: set[Path] = set()

    def place(self, frame: Frame) -> Path:
        """Where a frame's PNG goes.

        Raises:
            UsageError: another frame of this run went there, such as a.jpg before a.png.
        """
        path = (self.path / frame.name).with_suffix(".png")
        if path in self._taken:
            raise UsageError(f"{frame.name} would overwrite {path} of this run; give it another name")
        self._taken.add(path)
        output_folder(path.parent)
        return path
