"""Videos read back by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    """All frames of a video, uint8 ``[H, W, 3]``, B, G, R."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


def rate_of(path: Path) -> float:
    """The frames per second that a video states."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return fps
