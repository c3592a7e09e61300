"""Frames from cameras, through a model, into files, windows and browsers."""

from fcn_deploy.camera.frames import CameraFrame, Delivery
from fcn_deploy.camera.pipeline import Pipeline
from fcn_deploy.camera.source import Source
from fcn_deploy.camera.sources import IterableSource, SourceOptions, open_source
from fcn_deploy.camera.statistics import Statistics

__all__ = [
    "CameraFrame",
    "Delivery",
    "IterableSource",
    "Pipeline",
    "Source",
    "SourceOptions",
    "Statistics",
    "open_source",
]
