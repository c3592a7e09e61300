"""Opens a path as an image, a folder of images, or a video."""

from __future__ import annotations

from pathlib import Path

from fcn_deploy.data.folders import ImageFolder
from fcn_deploy.data.images import IMAGE_SUFFIXES
from fcn_deploy.data.video import Video
from fcn_deploy.errors import SourceError


def open_frames(path: str | Path, color_order: str = "bgr") -> ImageFolder | Video:
    """Open an image, a folder of images, or a video, whichever the path is.

    Args:
        path: an image is known by its suffix; any other file is a video.
        color_order: ``bgr`` or ``rgb``: of the frames.

    Raises:
        SourceError: it is missing, empty or cannot be read.
        UsageError: the colour order is unknown.
    """
    found = Path(path)
    if not found.exists():
        raise SourceError(f"{found} does not exist; give an image, a folder of images or a video")
    if found.is_dir() or found.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFolder(found, color_order)
    return Video(found, color_order)
