"""Where ``run`` puts its answers: the sinks that its options ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.camera.sinks.base import Sink
    from fcn_deploy.camera.sinks.overlay_pictures import OverlayPictures
    from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
    from fcn_deploy.camera.sinks.preview import Preview
    from fcn_deploy.camera.sinks.video_file import Picture
    from fcn_deploy.camera.sources.base import Source

_FOLDER_FPS = 10.0
"""Frames per second of a video made of images, which have no rate of their own."""


@dataclass(frozen=True)
class Wanted:
    """What a call asks to be written or shown."""

    overlay: Path | None
    masks: Path | None
    confidence: Path | None
    raw: Path | None
    serve: str | None
    show: bool
    alpha: float

    def places(self) -> list[Path]:
        """Files and folders that are written; stdout is none."""
        return [
            place
            for place in (self.overlay, self.masks, self.confidence, self.raw)
            if place and str(place) != "-"
        ]

    def nothing(self) -> bool:
        """Whether all answers are thrown away."""
        return not (self.places() or self.raw or self.show or self.serve)


def sinks_for(wanted: Wanted, sources: list[Source], opened: ExitStack) -> tuple[list[Sink], Preview | None]:
    """Open what was asked for.

    Args:
        wanted: what was asked for.
        sources: what is looked at.
        opened: closes the sinks, should the run never begin; closing them twice does nothing.

    Returns:
        The sinks in the order in which they are called, and the preview, if one of them is that.

    Raises:
        UsageError: a place cannot be written, a port cannot be had, or a suffix is wrong.
        BackendUnavailable: there is no display, or nothing to write videos with.
    """
    from fcn_deploy.camera import sinks
    from fcn_deploy.camera.sinks.preview import Preview

    cameras = len(sources)
    single = cameras == 1 and sources[0].length == 1
    made: list[Sink] = []

    def add(sink: Sink) -> None:
        made.append(opened.enter_context(sink))

    if wanted.overlay:
        fps = _rate_of(sources)
        add(overlay_to(wanted.overlay, single=single, fps=fps, alpha=wanted.alpha, cameras=cameras))
    if wanted.masks:
        add(sinks.LabelPngs(wanted.masks, cameras=cameras))
    if wanted.confidence:
        add(sinks.ConfidencePngs(wanted.confidence, cameras=cameras))
    if wanted.raw:
        add(sinks.RawLabels(wanted.raw, cameras=cameras))
    if wanted.show:
        add(sinks.Window(alpha=wanted.alpha, cameras=cameras, hold=single))
    preview = Preview(*_address(wanted.serve), alpha=wanted.alpha) if wanted.serve else None
    if preview:
        add(preview)
    return made, preview


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
    from fcn_deploy.camera.sinks.overlay_pictures import OverlayPictures
    from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
    from fcn_deploy.camera.sinks.video_file import VIDEO_SUFFIXES
    from fcn_deploy.data.images import IMAGE_SUFFIXES

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
        UsageError, PipelineError, BackendUnavailable: as
            :class:`~fcn_deploy.camera.sinks.video_file.VideoFile`.
    """
    from fcn_deploy.camera.sinks.video_file import VideoFile

    with VideoFile(path, fps) as video:
        try:
            yield video.write
        except BaseException:
            video.discard()
            raise


def _rate_of(sources: list[Source]) -> float | None:
    """Of a file's video; a live source gives what it gives, and that is measured."""
    if any(source.live for source in sources):
        return None
    return next((source.fps for source in sources if source.fps), _FOLDER_FPS)


def _address(text: str) -> tuple[str, int]:
    """``8080``, ``0.0.0.0:8080`` or ``[::1]:8080`` as host and port.

    Raises:
        UsageError: the port is no number up to 65535.
    """
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and port.isascii() and int(port) <= 65535):
        raise UsageError(f"--serve {text}: expected a port such as 8080, or an address with one")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
