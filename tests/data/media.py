"""Images and videos that the tests of this folder write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 6, 8
FRAMES, VIDEO_SIZE = 8, (48, 64)


def noise(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels, the same for the same seed: uint8 ``[H, W, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: NDArray[Any] | None = None, **options: Any) -> Path:
    """Write ``pixels``, or noise, as an image; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


def write_video(cv2: Any, path: Path, codec: str) -> Path:
    """A video of :data:`FRAMES` frames, bluer from one to the next, at 10 a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, VIDEO_SIZE[::-1])
    for i in range(FRAMES):
        writer.write(np.full((*VIDEO_SIZE, 3), (30 * i, 60, 250 - 30 * i), np.uint8))
    writer.release()
    return path
