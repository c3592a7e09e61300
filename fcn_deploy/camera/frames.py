"""What a camera pipeline passes on: captured frames, and deliveries (a frame with its result)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.runtimes.base import Segmentation


@dataclass(frozen=True, eq=False)  # comparing arrays gives no single truth value
class CameraFrame:
    """One frame as a source captured it. Its image is never written to after that."""

    image: NDArray[np.uint8]
    """uint8 ``[H, W, 3]`` in the colour order that the source was opened with."""
    name: str
    """Its path inside a folder, or its number with at least six digits."""
    index: int
    """Its number in its source, from 0, counted on over reconnects."""
    captured: float
    """When the source had it, seconds of ``time.monotonic()``."""
    camera: int = 0
    """Which source of the pipeline it came from, from 0."""


@dataclass(frozen=True, eq=False)  # comparing arrays gives no single truth value
class Delivery:
    """A frame with its result, as sinks get it."""

    frame: CameraFrame
    result: Segmentation
    """The result for this frame alone: a batch of 1."""
    age: float
    """Seconds from capture to the start of the delivery."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Class ids, uint8 ``[H, W]``."""
        labels: NDArray[np.uint8] = self.result.labels[0]
        return labels
