"""Labels that do not flicker: an option, off by default."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import UsageError


@final
class Hold:
    """Lets a pixel change its label only when it had the new one for several frames in a row.

    It costs that many frames less one of delay where something really moves, and it invents nothing:
    each label shown is one that the model gave to this pixel. Frames that were dropped in between do
    not count. One of these belongs to one camera.

    Args:
        frames: how many frames in a row a new label has to be seen, 2 to 255.

    Raises:
        UsageError: fewer than 2 or more than 255.
    """

    def __init__(self, frames: int) -> None:
        if not 2 <= frames <= 255:
            raise UsageError(f"labels can be held for 2 to 255 frames, not {frames}; leave smoothing out")
        self._frames = frames
        self._shown: NDArray[np.uint8] | None = None

    def __call__(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Smooth the next labels of this camera.

        Args:
            labels: uint8 ``[H, W]``; another size than before begins anew.

        Returns:
            uint8 ``[H, W]``, an array of its own.
        """
        if self._shown is None or self._shown.shape != labels.shape:
            self._shown = labels.copy()
            self._candidate = labels.copy()
            self._seen = np.full(labels.shape, self._frames, np.uint8)
            return labels.copy()
        again = labels == self._candidate
        # Counts up to `frames` and stays there, without a branch a pixel.
        self._seen = np.where(again, np.minimum(self._seen, self._frames - 1) + np.uint8(1), np.uint8(1))
        self._candidate = labels.copy()
        np.copyto(self._shown, labels, where=self._seen >= self._frames)
        return self._shown.copy()
