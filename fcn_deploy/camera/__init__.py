"""Frames from cameras, through a model, into files, windows and browsers."""

from fcn_deploy.camera.frames import CameraFrame, Delivery
from fcn_deploy.camera.pipeline import Pipeline
from fcn_deploy.camera.preview import Preview
from fcn_deploy.camera.sinks import (
    ConfidencePngs,
    LabelPngs,
    OverlayPictures,
    OverlayVideo,
    RawLabels,
    Sink,
    StopPipeline,
    Window,
)
from fcn_deploy.camera.source import Source
from fcn_deploy.camera.sources import IterableSource, SourceOptions, open_source
from fcn_deploy.camera.statistics import Statistics

__all__ = [
    "CameraFrame",
    "ConfidencePngs",
    "Delivery",
    "IterableSource",
    "LabelPngs",
    "OverlayPictures",
    "OverlayVideo",
    "Pipeline",
    "Preview",
    "RawLabels",
    "Sink",
    "Source",
    "SourceOptions",
    "Statistics",
    "StopPipeline",
    "Window",
    "open_source",
]
