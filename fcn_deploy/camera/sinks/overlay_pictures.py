"""Pictures with the labels drawn over the frames."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import Folder, numbered, while_running, write_picture
from fcn_deploy.data.images import IMAGE_SUFFIXES
from fcn_deploy.draw import Overlay


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
        self._folder = None if single else Folder(self._path, cameras)

    def __call__(self, delivery: Delivery) -> None:
        spec = delivery.answer.spec
        drawn = self._draw(delivery.frame.image, delivery.labels, spec)
        with while_running():
            if self._folder is None:
                place = numbered(self._path, delivery.frame.camera, self._cameras)
            else:
                place = self._folder.place(delivery)
            write_picture(place, drawn[..., ::-1] if spec.color_order == "bgr" else drawn)

    def close(self) -> None:
        pass  # each picture was whole when it was written
