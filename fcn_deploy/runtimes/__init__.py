"""Backends, which open artefacts and label frames; the names here are for authors of further ones."""

from fcn_deploy.runtimes.backend import Backend, BackendOptions, Description, FallbackOptions
from fcn_deploy.runtimes.base import Frames, Runtime, Segmentation, check_frames, usable_cores
from fcn_deploy.runtimes.device import DeviceRuntime
from fcn_deploy.runtimes.location import Location

__all__ = [
    "Backend",
    "BackendOptions",
    "Description",
    "DeviceRuntime",
    "FallbackOptions",
    "Frames",
    "Location",
    "Runtime",
    "Segmentation",
    "check_frames",
    "usable_cores",
]
