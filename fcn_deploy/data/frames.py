"""One frame of a dataset or a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.images import Image


@dataclass(frozen=True)
class Frame:
    """One frame, with its labels where the dataset has them."""

    image: Image
    """uint8 ``[H, W, 3]`` in the colour order that the source was opened with."""
    name: str
    """Its path inside the folder, or its number with six digits in a video."""
    index: int
    """Its number in its source, from 0."""
    labels: NDArray[np.uint8] | None = None
    """uint8 ``[H, W]``: class ids."""
