"""Where ``run`` puts its answers: the sinks that its options ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.camera.sinks import OverlayPictures, OverlayVideo
    from fcn_deploy.camera.sinks import Sink as CameraSink
    from fcn_deploy.camera.video import Picture
    from fcn_deploy.datasets import Frame
    from fcn_deploy.runtimes.base import Segmentation

    Sink = Callable[[Frame, Segmentation], None]


class WindowClosed(Exception):
    """The user closed the window, or pressed q or Esc in it."""


def overlay_to(
    path: Path, *, single: bool, fps: float | None, alpha: float, cameras: int = 1
) -> OverlayVideo | OverlayPictures:
    """The sink for ``--overlay``: a picture, a video, or a folder of pictures.

    Args:
        path: its suffix decides; without one it is a folder.
        single: whether the source is one image.
        fps: frames per second of a video; None measures it.
        alpha: weight of the labels' colours, 0 to 1.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the suffix is unknown, or names one picture for many frames.
        BackendUnavailable: there is nothing to write videos with.
    """
    from fcn_deploy.camera.sinks import OverlayPictures, OverlayVideo
    from fcn_deploy.camera.video import VIDEO_SUFFIXES
    from fcn_deploy.datasets import IMAGE_SUFFIXES

    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return OverlayVideo(path, fps, alpha=alpha, cameras=cameras)
    if suffix and suffix not in IMAGE_SUFFIXES:
        raise UsageError(
            f"--overlay {path}: expected a video ({', '.join(VIDEO_SUFFIXES)}), a picture "
            f"({', '.join(IMAGE_SUFFIXES)}) or a folder without a suffix"
        )
    if suffix and not single:
        raise UsageError(
            f"--overlay {path} is one picture and the source has many frames; name a video (.mp4) or a folder"
        )
    return OverlayPictures(path, alpha=alpha, cameras=cameras)


@contextmanager
def video_file(path: Path, fps: float) -> Iterator[Callable[[Picture], None]]:
    """A video that takes its place when the block ends without error.

    Yields:
        A function that appends an RGB picture, uint8 ``[H, W, 3]``.

    Raises:
        UsageError, PipelineError, BackendUnavailable: as :class:`~fcn_deploy.camera.video.VideoFile`.
    """
    from fcn_deploy.camera.video import VideoFile

    with VideoFile(path, fps) as video:
        try:
            yield video.write
        except BaseException:
            video.discard()
            raise


def overlay_sink(path: Path, *, single: bool, fps: float, alpha: float, opened: ExitStack) -> Sink:
    """:func:`overlay_to` for a run without a pipeline; a video of a run that failed is removed."""
    sink = overlay_to(path, single=single, fps=fps, alpha=alpha)

    def leave(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for video in getattr(sink, "videos", ()) if kind else ():
            video.discard()
        sink.close()

    opened.push(leave)
    return _alone(sink)


def labels_sink(path: Path) -> Sink:
    """Label maps as palette PNGs, one a frame: value = class id."""
    from fcn_deploy.camera.sinks import LabelPngs

    return _alone(LabelPngs(path))


def confidence_sink(path: Path) -> Sink:
    """Heat maps of the confidence as PNGs, one a frame."""
    from fcn_deploy.camera.sinks import ConfidencePngs

    return _alone(ConfidencePngs(path))


def window_sink(*, single: bool, alpha: float, opened: ExitStack) -> Sink:
    """A window that shows each overlay; one image stays until a key is pressed.

    Raises:
        BackendUnavailable: there is no display, or this OpenCV has no windows.
    """
    from fcn_deploy.camera.sinks import StopPipeline, Window

    sink = _alone(opened.enter_context(Window(alpha=alpha, hold=single)))

    def show(frame: Frame, answer: Segmentation) -> None:
        try:
            sink(frame, answer)
        except StopPipeline as exc:
            raise WindowClosed from exc

    return show


def _alone(sink: CameraSink) -> Sink:
    """A pipeline's sink for frames that come without one."""
    from fcn_deploy.camera.frames import CameraFrame, Delivery

    def take(frame: Frame, answer: Segmentation) -> None:
        sink(Delivery(CameraFrame(frame.image, frame.name, frame.index, 0.0), answer, 0.0))

    return take
