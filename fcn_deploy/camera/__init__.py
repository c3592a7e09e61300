"""Frames from cameras, through a model, into files, windows and browsers."""

from fcn_deploy.camera.frames import CameraFrame, Delivery
from fcn_deploy.camera.pipeline import Pipeline, Statistics
from fcn_deploy.camera.sinks import (
    ConfidencePngs,
    LabelPngs,
    OverlayPictures,
    OverlayVideo,
    Preview,
    RawLabels,
    Sink,
    StopPipeline,
    Window,
)
from fcn_deploy.camera.sources import IterableSource, Source, SourceOptions, open_source

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
