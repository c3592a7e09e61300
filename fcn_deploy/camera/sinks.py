"""Where a camera pipeline delivers to: videos, pictures, label maps, a raw stream, a window.

A sink is anything that can be called with a :class:`~fcn_deploy.camera.frames.Delivery`; these here are
also closed by the pipeline, once, however it ended.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, final

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.video import Picture, VideoFile
from fcn_deploy.datasets import IMAGE_SUFFIXES, write_labels
from fcn_deploy.draw import Overlay, heat_map
from fcn_deploy.errors import BackendUnavailable, PipelineError, UsageError
from fcn_deploy.files import atomic_output, output_folder
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")

_MEASURED = 9
"""Frames of a camera after which a video's rate is decided."""
_UNKNOWN, _SLOWEST, _FASTEST = 10.0, 0.1, 240.0
"""Frames per second where there are too few to measure, and the limits of what is measured."""
_PAUSE = 2.0
"""Seconds between two frames that are a pause, such as a lost stream, and not the camera's pace."""
_BLINK = 30
"""Milliseconds between two looks at the keys of a window that stands still."""
_STAYING = (255, ord("o"), ord("s"))
"""Keys that do not take a held picture away; 255 is none."""
_WINDOW = (1280, 720)
"""Width and height that a window begins with at most."""


class StopPipeline(Exception):
    """Raised by a sink that wants no more: the pipeline ends, and nothing has failed."""


class Sink(ABC):
    """Something that takes deliveries until it is closed."""

    in_caller_thread: ClassVar[bool] = False
    """Whether it must be called in the thread that runs the pipeline, as windows must."""

    @abstractmethod
    def __call__(self, delivery: Delivery) -> None:
        """Take a frame with its answer.

        Raises:
            StopPipeline: it wants no more.
            PipelineError: it cannot take it.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish what was taken; closing again does nothing."""

    @final
    def __enter__(self) -> Sink:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@final
class OverlayVideo(Sink):
    """A video of the frames with their labels drawn over them, all frames in the first one's size.

    Args:
        path: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` or ``.avi``. Several cameras give a video each,
            ``name.0.mp4``, ``name.1.mp4`` and so on.
        fps: frames per second; None measures it for each camera, which a live source needs, because it
            may give another rate than it states, and a slow model takes fewer. Pauses of more than two
            seconds are cut out. OpenCV's encoders need the rate at the first frame and are given that of
            the first nine; the ffmpeg program's videos get the mean of the whole run.
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.
        encoder: a key of :data:`~fcn_deploy.camera.video.ENCODERS`; None takes the best that works.

    Raises:
        UsageError: the suffix, the rate or alpha cannot be, or the folder cannot be written.
        BackendUnavailable: there is nothing to write videos with.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | None = None,
        *,
        alpha: float = 0.5,
        legend: bool = True,
        cameras: int = 1,
        encoder: str | None = None,
    ) -> None:
        self._draw = Overlay(alpha, legend=legend)
        with ExitStack() as opened:
            self.videos = tuple(
                opened.enter_context(VideoFile(_numbered(Path(path), camera, cameras), fps, encoder=encoder))
                for camera in range(cameras)
            )
            """The video of each camera; its ``encoder`` says what encodes it."""
            self._opened = opened.pop_all()
        self._waiting: list[list[tuple[Picture, str, float]]] = [[] for _ in range(cameras)]
        self._clocks = [None if fps else _Clock() for _ in range(cameras)]

    def __call__(self, delivery: Delivery) -> None:
        camera, order = delivery.frame.camera, delivery.answer.spec.color_order
        if clock := self._clocks[camera]:
            clock.tick(delivery.frame.captured)
        drawn = self._draw(delivery.frame.image, delivery.labels, delivery.answer.spec)
        if self.videos[camera].fps is None:
            waiting = self._waiting[camera]
            waiting.append((drawn.copy(), order, delivery.frame.captured))
            if len(waiting) == _MEASURED:
                self._begin(camera)
        else:
            self.videos[camera].write(drawn, order)

    def close(self) -> None:
        with self._opened:  # which closes the others' videos where one cannot be finished
            for camera in range(len(self.videos)):
                self._opened.callback(self._finish, camera)

    def _finish(self, camera: int) -> None:
        """Write what waits for a rate, and end the video; a second time does nothing."""
        if self._waiting[camera]:
            self._begin(camera)
        clock = self._clocks[camera]
        self.videos[camera].close(clock.rate() if clock else None)

    def _begin(self, camera: int) -> None:
        """Write the frames that waited until the rate was known."""
        waiting, self._waiting[camera] = self._waiting[camera], []
        self.videos[camera].fps = _rate([captured for _, _, captured in waiting])
        for picture, order, _ in waiting:
            self.videos[camera].write(picture, order)


@final
class OverlayPictures(Sink):
    """Pictures of the frames with their labels drawn over them.

    Args:
        path: a folder, which gets one PNG a frame under the frame's name; several cameras get
            ``camera0/``, ``camera1/`` and so on in it. Or one picture, by its suffix: it always
            shows the newest frame, and several cameras give ``name.0.png`` and so on.
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.

    Raises:
        UsageError: alpha is out of range, or the folder cannot be written.
    """

    def __init__(
        self, path: str | Path, *, alpha: float = 0.5, legend: bool = True, cameras: int = 1
    ) -> None:
        self._draw = Overlay(alpha, legend=legend)
        self._path, self._cameras = Path(path), cameras
        single = self._path.suffix.lower() in IMAGE_SUFFIXES
        self._folder = None if single else _Folder(self._path, cameras)

    def __call__(self, delivery: Delivery) -> None:
        spec = delivery.answer.spec
        drawn = self._draw(delivery.frame.image, delivery.labels, spec)
        with _while_running():
            if self._folder is None:
                place = _numbered(self._path, delivery.frame.camera, self._cameras)
            else:
                place = self._folder.place(delivery)
            write_picture(place, drawn[..., ::-1] if spec.color_order == "bgr" else drawn)

    def close(self) -> None:
        pass  # each picture was whole when it was written


@final
class LabelPngs(Sink):
    """Label maps as palette PNGs, one a frame, under the frame's name: value = class id.

    Args:
        folder: several cameras get ``camera0/``, ``camera1/`` and so on in it.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, cameras: int = 1) -> None:
        self._folder = _Folder(Path(folder), cameras)

    def __call__(self, delivery: Delivery) -> None:
        with _while_running():
            write_labels(self._folder.place(delivery), delivery.labels, delivery.answer.spec.palette)

    def close(self) -> None:
        pass  # each map was whole when it was written


@final
class ConfidencePngs(Sink):
    """Heat maps of the confidence as PNGs, one a frame, under the frame's name.

    Args:
        folder: several cameras get ``camera0/``, ``camera1/`` and so on in it.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, cameras: int = 1) -> None:
        self._folder = _Folder(Path(folder), cameras)

    def __call__(self, delivery: Delivery) -> None:
        """Write one.

        Raises:
            UsageError: the artefact answers no confidence.
        """
        confidence = delivery.answer.confidence
        if confidence is None:
            raise UsageError(
                "the artefact has no confidence output; export it again with --outputs labels,confidence"
            )
        with _while_running():
            write_picture(self._folder.place(delivery), heat_map(confidence[0]))

    def close(self) -> None:
        pass  # each picture was whole when it was written


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


@final
class Window(Sink):
    """A window for each camera that shows the overlay.

    q or Esc ends the pipeline, as closing the window does; space pauses, s saves what is shown as a
    picture, o takes the labels away and brings them back.

    Args:
        alpha: weight of the labels' colours, 0 to 1.
        legend: name the classes in a corner.
        cameras: how many cameras deliver.
        hold: keep each frame until a key is pressed, for a source of one image.
        pictures: folder that s saves into.

    Raises:
        BackendUnavailable: there is no display, or this OpenCV has no windows.
        MissingDependency: OpenCV is not installed.
    """

    in_caller_thread = True

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        legend: bool = True,
        cameras: int = 1,
        hold: bool = False,
        pictures: str | Path = ".",
    ) -> None:
        self._draw = Overlay(alpha, legend=legend)
        self._cv2 = require("cv2", extra="opencv")
        self._hold, self._pictures = hold, Path(pictures)
        self._overlaid, self._paused = True, False
        self._sized: set[str] = set()
        self._titles = [f"fcn-deploy {camera}" if cameras > 1 else "fcn-deploy" for camera in range(cameras)]
        # Qt ends the whole process where it finds no display, so it must not be asked.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise BackendUnavailable(
                "a window needs a display and there is none here; use --overlay instead, or --serve to look "
                "at it in a browser"
            )
        try:
            # Without Qt's tool bar, whose letters would take the keys.
            style = self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO | self._cv2.WINDOW_GUI_NORMAL
            for title in self._titles:
                self._cv2.namedWindow(title, style)
        except self._cv2.error as exc:
            raise BackendUnavailable(
                "this OpenCV was built without windows (opencv-python-headless?); use --overlay instead, or "
                "--serve to look at it in a browser"
            ) from exc
        self._closed = False

    def __call__(self, delivery: Delivery) -> None:
        """Show it, and do what the keys say; returns once the pause is over.

        Raises:
            StopPipeline: q or Esc was pressed, or the window closed.
        """
        self._show(delivery)
        key = self._key(delivery, 1)
        while self._paused or (self._hold and key in _STAYING):
            key = self._key(delivery, _BLINK)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for title in self._titles:
                with suppress(self._cv2.error):  # the user closed it
                    self._cv2.destroyWindow(title)

    def _show(self, delivery: Delivery) -> None:
        title, picture = self._titles[delivery.frame.camera], self._picture(delivery)
        if title not in self._sized:  # once: from then on its size is the user's
            self._sized.add(title)
            self._cv2.resizeWindow(title, *_fitted(picture.shape[1], picture.shape[0]))
        self._cv2.imshow(title, picture)

    def _picture(self, delivery: Delivery) -> Picture:
        """What is shown, B, G, R."""
        picture, spec = delivery.frame.image, delivery.answer.spec
        if self._overlaid:
            picture = self._draw(picture, delivery.labels, spec)
        return picture if spec.color_order == "bgr" else np.ascontiguousarray(picture[..., ::-1])

    def _key(self, delivery: Delivery, patience: int) -> int:
        """Wait so many milliseconds for a key, and do what it says."""
        cv2, title = self._cv2, self._titles[delivery.frame.camera]
        key = int(cv2.waitKey(patience)) & 0xFF
        if key in (27, ord("q")) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            raise StopPipeline("the window was closed")
        if key == ord(" "):
            self._paused = not self._paused and not self._hold
        elif key == ord("o"):
            self._overlaid = not self._overlaid
            self._show(delivery)
        elif key == ord("s"):
            self._save(delivery)
        return key

    def _save(self, delivery: Delivery) -> None:
        shown = self._picture(delivery)
        camera = f"-{delivery.frame.camera}" if len(self._titles) > 1 else ""
        stem = f"{'overlay' if self._overlaid else 'frame'}{camera}-{Path(delivery.frame.name).stem}"
        try:
            place = _free(self._pictures, stem)
            write_picture(place, shown[..., ::-1])
        except UsageError as exc:
            log.warning("nothing was saved: %s", exc)
        else:
            log.info("saved %s", place)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Width and height, scaled down to what fits :data:`_WINDOW`."""
    scale = min(1.0, _WINDOW[0] / width, _WINDOW[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def write_picture(path: Path, picture: Picture) -> None:
    """Write an RGB picture, uint8 ``[H, W, 3]``, atomically; the suffix decides the format.

    Raises:
        UsageError: it cannot be written.
    """
    image = require("PIL.Image", extra="cpu").fromarray(np.ascontiguousarray(picture))
    with atomic_output(path) as temporary:
        image.save(temporary)


class _Folder:
    """A folder that gets one PNG a frame; the source's own folders are kept."""

    def __init__(self, path: Path, cameras: int) -> None:
        self._path, self._cameras = output_folder(path), cameras
        self._taken: set[Path] = set()

    def place(self, delivery: Delivery) -> Path:
        """Where a frame's PNG goes.

        Raises:
            UsageError: another frame of this run went there, such as a.jpg before a.png, or the name leads
                out of the folder.
        """
        name = delivery.frame.name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"the frame name {name!r} leads out of {self._path}; give it a relative name")
        folder = self._path / f"camera{delivery.frame.camera}" if self._cameras > 1 else self._path
        path = (folder / name).with_suffix(".png")
        if Path(name).suffix:  # numbers do not repeat, and a camera has too many to remember
            if path in self._taken:
                raise UsageError(f"{name} would overwrite {path} of this run; give it another name")
            self._taken.add(path)
        output_folder(path.parent)
        return path


def _numbered(path: Path, camera: int, cameras: int) -> Path:
    return path.with_name(f"{path.stem}.{camera}{path.suffix}") if cameras > 1 else path


class _Clock:
    """The mean rate of a camera's frames, without its pauses."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds, self._gaps = 0.0, 0

    def tick(self, captured: float) -> None:
        """A frame was captured at this second."""
        if self._last is not None and 0 < (gap := captured - self._last) <= _PAUSE:
            self._seconds, self._gaps = self._seconds + gap, self._gaps + 1
        self._last = captured

    def rate(self) -> float | None:
        """Frames per second; None before there were two."""
        return self._gaps / self._seconds if self._gaps else None


def _free(folder: Path, stem: str) -> Path:
    """A name for a picture that is not taken yet."""
    place, number = folder / f"{stem}.png", 1
    while place.exists():
        place, number = folder / f"{stem}-{number}.png", number + 1
    return place


def _rate(captured: list[float]) -> float:
    """Frames per second, from the seconds at which the first ones were captured."""
    gaps = [after - before for before, after in pairwise(captured)]
    gap = statistics.median(gaps) if gaps else 0.0
    return min(max(round(1 / gap, 2), _SLOWEST), _FASTEST) if gap > 0 else _UNKNOWN


@contextmanager
def _while_running() -> Iterator[None]:
    """What the system refuses during a run is no wrong call."""
    try:
        yield
    except UsageError as exc:
        if isinstance(exc.__cause__, OSError):
            raise PipelineError(str(exc)) from exc.__cause__
        raise


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
