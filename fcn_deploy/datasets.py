"""Images, labels, videos: what run, eval, calibration and bench read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One frame of a source, with its labels where the source has them."""

    image: NDArray[np.uint8]
    """uint8 ``[H, W, 3]`` in the colour order that the source was opened with."""
    name: str
    index: int
    labels: NDArray[np.uint8] | None = None
    """uint8 ``[H, W]``: class ids."""
