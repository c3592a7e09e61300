"""Videos, decoded by OpenCV one frame at a time."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.data.frames import Frame
from fcn_deploy.data.images import check_color_order
from fcn_deploy.errors import SourceError
from fcn_deploy.lazy import require


class Video:
    """A video file, decoded by OpenCV; the file is closed however the iteration ends.

    Args:
        path: the file.
        color_order: ``bgr`` or ``rgb``: of the frames.

    Raises:
        SourceError: it is missing or cannot be decoded at all.
        UsageError: the colour order is unknown.
    """

    def __init__(self, path: str | Path, color_order: str = "bgr") -> None:
        self.path, self.color_order = Path(path), check_color_order(color_order)
        if not self.path.is_file():
            raise SourceError(f"{self.path} does not exist; give a video, an image or a folder of images")
        cv2 = require("cv2", extra="opencv")
        capture = self._open()
        try:
            self.fps = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
            """Frames a second that the file states; 25 where it states none."""
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self.count = count if count > 0 else None
            """The number of frames that the file states; None where it states none."""
            self.size = (
                int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
                int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            )
            """Height and width."""
        finally:
            capture.release()

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order; warns where the file ends before the stated number of frames.

        Raises:
            SourceError: not one frame can be decoded.
        """
        index = -1
        with closing(self.frames()) as frames:
            for frame in frames:
                index = frame.index
                yield frame
        if self.count is not None and index + 1 < self.count:
            warnings.warn(
                f"{self.path} states {self.count} frames and gave {index + 1}: it is damaged or cut off",
                stacklevel=2,
            )

    def frames(self) -> Generator[Frame, None, None]:
        """As :meth:`__iter__`, without the warning, for callers that compare with :attr:`count` themselves.

        Raises:
            SourceError: not one frame can be decoded.
        """
        capture = self._open()
        index = 0
        try:
            while True:
                ok, image = capture.read()
                if not ok:
                    break
                ordered = image if self.color_order == "bgr" else np.ascontiguousarray(image[..., ::-1])
                yield Frame(ordered, f"{index:06d}", index)
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise SourceError(f"{self.path} holds no frame that can be decoded; it is damaged or cut off")

    def _open(self) -> Any:
        capture = require("cv2", extra="opencv").VideoCapture(str(self.path))
        if not capture.isOpened():
            raise SourceError(
                f"{self.path} cannot be decoded as an image or a video; it is damaged or no video"
            )
        return capture
