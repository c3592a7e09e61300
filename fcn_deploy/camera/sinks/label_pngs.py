"""Label maps as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import Folder, while_running
from fcn_deploy.data.images import write_labels


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
        self._folder = Folder(Path(folder), cameras)

    def __call__(self, delivery: Delivery) -> None:
        with while_running():
            write_labels(self._folder.place(delivery), delivery.labels, delivery.answer.spec.palette)

    def close(self) -> None:
        pass  # each map was whole when it was written
