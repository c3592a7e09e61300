"""Files that sinks write: pictures, their names, and errors while writing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.draw import Picture
from fcn_deploy.errors import PipelineError, UsageError
from fcn_deploy.files import atomic_output, output_folder
from fcn_deploy.lazy import require


def write_picture(path: Path, picture: Picture) -> None:
    """Write an RGB picture, uint8 ``[H, W, 3]``, atomically; the suffix decides the format.

    Raises:
        UsageError: it cannot be written.
    """
    image = require("PIL.Image", extra="cpu").fromarray(np.ascontiguousarray(picture))
    with atomic_output(path) as temporary:
        image.save(temporary)


class PngFolder:
    """A folder that gets one PNG for each frame, in the same sub-folders as the source's images.

    Args:
        path: created where it is missing; several cameras get ``camera0/``, ``camera1/`` and so on in it.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, cameras: int) -> None:
        self._path, self._cameras = output_folder(path), cameras
        self._used: set[Path] = set()

    def path_for(self, delivery: Delivery) -> Path:
        """The path of a frame's PNG.

        Raises:
            UsageError: another frame of this run has the same path, such as a.jpg before a.png, or the
                name leads out of the folder.
        """
        name = delivery.frame.name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"the frame name {name!r} leads out of {self._path}; give it a relative name")
        folder = self._path / f"camera{delivery.frame.camera}" if self._cameras > 1 else self._path
        path = (folder / name).with_suffix(".png")
        if Path(name).suffix:  # a camera's frames are numbers without a suffix, and never repeat
            if path in self._used:
                raise UsageError(f"{name} would overwrite {path} of this run; give it another name")
            self._used.add(path)
        output_folder(path.parent)
        return path


def camera_path(path: Path, camera: int, cameras: int) -> Path:
    """``path`` for one camera: ``name.0.png`` and so on where there are several."""
    return path.with_name(f"{path.stem}.{camera}{path.suffix}") if cameras > 1 else path


def unused_path(folder: Path, stem: str) -> Path:
    """The path of a PNG that does not exist yet: ``stem.png``, ``stem-1.png`` and so on."""
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


@contextmanager
def output_error_as_pipeline_error() -> Iterator[None]:
    """Raise a PipelineError where the system refuses to write: during a run that is not wrong use."""
    try:
        yield
    except UsageError as exc:
        if isinstance(exc.__cause__, OSError):
            raise PipelineError(str(exc)) from exc.__cause__
        raise
