"""The frames that are measured: the same for every row, at each size."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.folders import ImageFolder
from fcn_deploy.data.opening import open_frames
from fcn_deploy.data.street import SyntheticStreet
from fcn_deploy.lazy import require

COUNT = 8
"""Different frames: the agreement on a single one could be high by chance."""

_CLIP = 48
"""Length of the synthetic clip that the frames are taken from."""

_MAX_BYTES = 256e6
"""The most memory for all frames; fewer frames are used where they are very large."""


def make_frames(source: Path | None, height: int, width: int) -> NDArray[np.uint8]:
    """Up to :data:`COUNT` frames spread evenly over a clip.

    Args:
        source: an image, a folder of images or a video; None uses the synthetic street clip.
        height: rows of the frames returned. Frames of another size are scaled.
        width: columns.

    Returns:
        uint8 ``[F, H, W, 3]`` in B, G, R.

    Raises:
        SourceError: the source cannot be read, or holds no frame.
    """
    count = int(max(1, min(COUNT, _MAX_BYTES // (height * width * 3))))
    if source is None:
        street = SyntheticStreet(frames=_CLIP, height=height, width=width, color_order="bgr")
        return np.stack([street[i * _CLIP // count].image for i in range(count)])
    frames = open_frames(source, color_order="bgr")
    if isinstance(frames, ImageFolder):
        count = min(count, len(frames))
        picked = [frames[i * len(frames) // count] for i in range(count)]
    else:
        stride = max((frames.count or 0) // count, 1)
        picked = list(islice(frames, 0, count * stride, stride))
    return np.stack([_scaled(frame.image, height, width) for frame in picked])


def _scaled(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    pillow = require("PIL.Image", extra="all")
    resized = pillow.fromarray(image).resize((width, height), pillow.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)
