"""Frames and labels on disk, and a synthetic street clip: what run, eval, calibration and bench read."""

from fcn_deploy.data.folders import ImageFolder, LabelledFolder
from fcn_deploy.data.frames import Frame
from fcn_deploy.data.images import read_image, read_labels, write_labels
from fcn_deploy.data.opening import open_frames
from fcn_deploy.data.video import Video

__all__ = [
    "Frame",
    "ImageFolder",
    "LabelledFolder",
    "Video",
    "open_frames",
    "read_image",
    "read_labels",
    "write_labels",
]
