"""Temporal smoothing of labels: an option of the pipeline, off by default."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import UsageError


@final
class LabelSmoother:
    """Changes a pixel's label only after several frames in a row had the new one.

    A real change is shown ``frames - 1`` frames late. Each label shown is one that the model gave to that
    pixel. Frames that were dropped in between do not count. Make one for each camera.

    Args:
        frames: how many frames in a row must have the new label, 2 to 255.

    Raises:
        UsageError: fewer than 2 or more than 255.
    """

    def __init__(self, frames: int) -> None:
        if not 2 <= frames <= 255:
            raise UsageError(f"smoothing takes 2 to 255 frames, not {frames}; leave it out for none")
        self._frames = frames
        self._shown: NDArray[np.uint8] | None = None

    def __call__(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Smooth the next labels of this camera.

        Args:
            labels: uint8 ``[H, W]``; another size than before starts again.

        Returns:
            uint8 ``[H, W]``, an array of its own.
        """
        if self._shown is None or self._shown.shape != labels.shape:
            self._shown = labels.copy()
            self._candidate = labels.copy()
            self._count = np.full(labels.shape, self._frames, np.uint8)
            return labels.copy()
        same = labels == self._candidate
        # Counts up to `frames` and stays there, without a branch for each pixel.
        self._count = np.where(same, np.minimum(self._count, self._frames - 1) + np.uint8(1), np.uint8(1))
        self._candidate = labels.copy()
        np.copyto(self._shown, labels, where=self._count >= self._frames)
        return self._shown.copy()
