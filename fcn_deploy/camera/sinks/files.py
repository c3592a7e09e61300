"""Pictures written by sinks: file names, folders and atomic writing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.video_file import Picture
from fcn_deploy.errors import PipelineError, UsageError
from fcn_deploy.files import atomic_output, output_folder
from fcn_deploy.lazy import require

log = logging.getLogger("fcn_deploy.camera")


def write_picture(path: Path, picture: Picture) -> None:
    """Write an RGB picture, uint8 ``[H, W, 3]``, atomically; the suffix decides the format.

    Raises:
        UsageError: it cannot be written.
    """
    image = require("PIL.Image", extra="cpu").fromarray(np.ascontiguousarray(picture))
    with atomic_output(path) as temporary:
        image.save(temporary)


class Folder:
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


def numbered(path: Path, camera: int, cameras: int) -> Path:
    return path.with_name(f"{path.stem}.{camera}{path.suffix}") if cameras > 1 else path


def free(folder: Path, stem: str) -> Path:
    """A name for a picture that is not taken yet."""
    place, number = folder / f"{stem}.png", 1
    while place.exists():
        place, number = folder / f"{stem}-{number}.png", number + 1
    return place


@contextmanager
def while_running() -> Iterator[None]:
    """What the system refuses during a run is no wrong call."""
    try:
        yield
    except UsageError as exc:
        if isinstance(exc.__cause__, OSError):
            raise PipelineError(str(exc)) from exc.__cause__
        raise
