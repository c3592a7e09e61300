"""Heat maps of the confidence as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.files import Folder, while_running, write_picture
from fcn_deploy.draw import heat_map
from fcn_deploy.errors import UsageError


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
        self._folder = Folder(Path(folder), cameras)

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
        with while_running():
            write_picture(self._folder.place(delivery), heat_map(confidence[0]))

    def close(self) -> None:
        pass  # each picture was whole when it was written
