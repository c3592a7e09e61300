"""One frame of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.images import Image


@dataclass(frozen=True)
class Frame:
    """One frame of a source, with its labels where the source has them."""

    image: Image
    """uint8 ``[H, W, 3]`` in the colour order that the source was opened with."""
    name: str
    """Its path inside the source, or a number for a video's frame."""
    index: int
    labels: NDArray[np.uint8] | None = None
    """uint8 ``[H, W]``: class ids."""
