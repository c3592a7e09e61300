"""Sinks called by hand, and what they wrote."""

from __future__ import annotations

from pathlib import Path

from fcn_deploy.camera import Delivery
from fcn_deploy.camera.sinks.base import Sink


def give(sink: Sink, *deliveries: Delivery) -> None:
    """Give deliveries to a sink and close it."""
    with sink:
        for each in deliveries:
            sink(each)
    sink.close()  # twice is harmless


def files(folder: Path) -> set[str]:
    """The paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
