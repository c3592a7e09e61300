"""Sinks of a camera pipeline: one module for each."""

from fcn_deploy.camera.sinks.base import Sink, StopPipeline
from fcn_deploy.camera.sinks.confidence_pngs import ConfidencePngs
from fcn_deploy.camera.sinks.label_pngs import LabelPngs
from fcn_deploy.camera.sinks.overlay_pictures import OverlayPictures
from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
from fcn_deploy.camera.sinks.preview import Preview
from fcn_deploy.camera.sinks.raw_labels import RawLabels
from fcn_deploy.camera.sinks.window import Window

__all__ = [
    "ConfidencePngs",
    "LabelPngs",
    "OverlayPictures",
    "OverlayVideo",
    "Preview",
    "RawLabels",
    "Sink",
    "StopPipeline",
    "Window",
]
