"""Heat maps of the confidence as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import PngFolder, output_error_as_pipeline_error, write_picture
from fcn_deploy.draw import heat_map
from fcn_deploy.errors import UsageError


@final
class ConfidencePngs(Sink):
    """Heat maps of the confidence, one PNG for each frame, named like the frame.

    Args:
        folder: created where it is missing; several cameras get ``camera0/``, ``camera1/`` and so on in it.
        cameras: how many cameras deliver.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, cameras: int = 1) -> None:
        self._folder = PngFolder(folder, cameras)

    def __call__(self, delivery: Delivery) -> None:
        """Write one.

        Raises:
            UsageError: the artefact has no confidence output.
        """
        confidence = delivery.result.confidence
        if confidence is None:
            raise UsageError(
                "the artefact has no confidence output; export it again with --outputs labels,confidence"
            )
        with output_error_as_pipeline_error():
            write_picture(self._folder.path_for(delivery), heat_map(confidence[0]))

    def close(self) -> None:
        pass  # each picture is complete once it is written
