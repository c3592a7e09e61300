"""Label maps as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import PngFolder, output_error_as_pipeline_error
from fcn_deploy.data.images import write_labels


@final
class LabelPngs(Sink):
    """Label maps, one palette PNG for each frame, named like the frame: pixel value = class id.

    Args:
        folder: created where it is missing; several cameras get ``camera0/``, ``camera1/`` and so on in it.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, cameras: int = 1) -> None:
        self._folder = PngFolder(folder, cameras)

    def __call__(self, delivery: Delivery) -> None:
        with output_error_as_pipeline_error():
            write_labels(self._folder.path_for(delivery), delivery.labels, delivery.result.spec.palette)

    def close(self) -> None:
        pass  # each map is complete once it is written
