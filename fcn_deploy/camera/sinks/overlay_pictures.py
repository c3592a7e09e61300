"""Pictures with the labels drawn over the frames."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import (
    PngFolder,
    camera_path,
    output_error_as_pipeline_error,
    write_picture,
)
from fcn_deploy.data.images import IMAGE_SUFFIXES
from fcn_deploy.draw import Overlay


@final
class OverlayPictures(Sink):
    """Pictures of the frames with their labels drawn over them.

    Args:
        path: a folder, which gets one PNG for each frame, named like the frame; several cameras get
            ``camera0/``, ``camera1/`` and so on in it. Or one picture, by its suffix: it always
            shows the newest frame, and several cameras get ``name.0.png`` and so on.
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
        self._folder = None if single else PngFolder(self._path, cameras)

    def __call__(self, delivery: Delivery) -> None:
        spec = delivery.result.spec
        drawn = self._draw(delivery.frame.image, delivery.labels, spec)
        with output_error_as_pipeline_error():
            if self._folder is None:
                path = camera_path(self._path, delivery.frame.camera, self._cameras)
            else:
                path = self._folder.path_for(delivery)
            write_picture(path, drawn[..., ::-1] if spec.color_order == "bgr" else drawn)

    def close(self) -> None:
        pass  # each picture is complete once it is written
