"""Calibration frames: a folder, a video or a data set, read one frame at a time, and checked.

Ranges taken from frames that the camera will never show are worse than none, because nothing fails:
the labels are wrong. So noise and blank frames are refused, and what looks odd becomes a warning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.folders import ImageFolder
from fcn_deploy.data.opening import open_frames
from fcn_deploy.data.video import Video
from fcn_deploy.errors import SourceError
from fcn_deploy.spec import ModelSpec

MAX_FRAMES = 128
"""Frames taken where the caller does not say; ranges hardly move beyond a hundred."""
FEW_FRAMES = 8
_FLAT = 2.0
"""Standard deviation of pixels (0..255) up to which a frame shows nothing."""
_NOISE = 0.5
"""Correlation of neighbouring pixels below which a frame is noise; pictures have 0.9 and more."""
_FAR = 60.0
"""Distance (0..255, mean over channels) of the frames' mean colour from the spec's that is a warning."""


@dataclass
class CalibrationFrames:
    """At most ``max_frames`` frames, spread evenly over the source; each pass reads them again.

    Args:
        source: a folder of images (searched to any depth), a video, or one image.
        spec: the model's description; frames come in its colour order.
        max_frames: how many to take at most.
        size: height and width to which frames are resized; None keeps their own.

    Raises:
        SourceError: the source is missing, holds no image, or is not one.
    """

    source: Path
    spec: ModelSpec
    max_frames: int = MAX_FRAMES
    size: tuple[int, int] | None = None
    seen: Survey | None = field(default=None, init=False)
    """What the last complete pass found."""

    def __post_init__(self) -> None:
        if str(self.source) in ("random", "synthetic", "none"):
            raise SourceError(
                f"calibration needs frames of your camera, and {str(self.source)!r} is none; give a folder "
                "of images or a video"
            )
        self._frames: ImageFolder | Video = open_frames(self.source, self.spec.color_order)
        if isinstance(self._frames, ImageFolder):
            self._frames.paths = [path for path in self._frames.paths if not is_label(path)]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 ``[1, H, W, 3]`` batches in the spec's colour order.

        Raises:
            SourceError: a frame cannot be read, is blank as all others, or all are noise.
        """
        survey = Survey()
        for image in self._chosen():
            if self.size is not None:
                image = resized(image, self.size)
            self._check_size(*image.shape[:2])
            survey.add(image, self.spec)
            yield image[None]
        survey.refuse(self.source)
        self.seen = survey

    def _check_size(self, height: int, width: int) -> None:
        """Refuse frames of another size than the only one that the model takes."""
        _, rows, columns = self.spec.fixed_shape
        wanted = (rows or height, columns or width)
        if (height, width) != wanted:
            raise SourceError(
                f"{self.source} has frames of {height}x{width}, and this model takes {wanted[0]}x{wanted[1]} "
                f"only; scale them: quantize does it with --size {wanted[0]}x{wanted[1]}"
            )

    def __len__(self) -> int:
        """How many frames a pass gives; of a video, as far as its header tells."""
        return min(self.max_frames, self._total())

    def _total(self) -> int:
        return len(self._frames) if isinstance(self._frames, ImageFolder) else self._frames.count or 10**9

    def _chosen(self) -> Iterator[NDArray[np.uint8]]:
        total = self._total()
        if total > self.max_frames and total != 10**9:
            wanted = set(np.linspace(0, total - 1, self.max_frames).round().astype(int).tolist())
        else:
            wanted = set(range(self.max_frames))
        if isinstance(self._frames, ImageFolder):
            for index in sorted(wanted & set(range(total))):
                yield self._frames[index].image
            return
        for frame in self._frames:
            if frame.index in wanted:
                yield frame.image
            if frame.index >= max(wanted):
                return


@dataclass
class Survey:
    """What is noted while frames pass: enough to identify them and to warn about them."""

    frames: int = 0
    flat: int = 0
    noise: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    color: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    """Sum of the frames' mean colours, B, G, R."""
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, image: NDArray[np.uint8], spec: ModelSpec) -> None:
        """Take note of one uint8 ``[H, W, 3]`` frame in the spec's colour order."""
        self.frames += 1
        self.sizes.add((image.shape[0], image.shape[1]))
        self._hash.update(repr(image.shape).encode())
        self._hash.update(np.ascontiguousarray(image).tobytes())
        mean = image.reshape(-1, 3).mean(0)
        self.color += mean[::-1] if spec.color_order == "rgb" else mean
        gray = image[..., 1].astype(np.float32)
        if gray.std() < _FLAT:
            self.flat += 1
        elif neighbour_correlation(gray) < _NOISE:
            self.noise += 1

    @property
    def sha256(self) -> str:
        """Hash of all pixels seen, in order."""
        return self._hash.hexdigest()

    def refuse(self, source: Path) -> None:
        """Raises SourceError where no frame shows anything."""
        if self.frames == 0:
            raise SourceError(f"{source} gave no frame to calibrate on; give a folder of images or a video")
        if self.flat == self.frames:
            raise SourceError(
                f"all {self.frames} frames of {source} are blank (one colour all over); calibrate on frames "
                "that show what the camera will see"
            )
        if self.noise + self.flat == self.frames:
            raise SourceError(
                f"the frames of {source} look like random noise (neighbouring pixels are unrelated); "
                "calibrate on frames that show what the camera will see"
            )

    def warnings(self, spec: ModelSpec) -> list[str]:
        """A sentence for each reason to doubt ranges from these frames."""
        said = []
        if self.frames < FEW_FRAMES:
            frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
            said.append(f"{frames} to calibrate on is few; take 100 or so from different hours and places")
        if self.flat or self.noise:
            said.append(f"{self.flat + self.noise} of {self.frames} calibration frames are blank or noise")
        color, mean = self.color / self.frames, np.array(spec.mean)
        found = "({:.0f}, {:.0f}, {:.0f})".format(*color)
        stated = "({:.0f}, {:.0f}, {:.0f})".format(*mean)
        # A network that reads frames of 0 to 1 has no mean to compare with.
        if mean.any() and np.abs(color - mean).mean() > _FAR:
            said.append(
                f"the mean colour of the frames, B, G, R {found}, is far from the model's mean {stated}; "
                "check that they are exposed and prepared like the frames that the model will see"
            )
        return said


def is_label(path: Path) -> bool:
    """Whether a file lies in ``labels/`` beside ``images/`` or ``Xannot/`` beside ``X/``, as labels do."""
    for folder in path.parents:
        name = folder.name
        images = "images" if name == "labels" else name.removesuffix("annot")
        if images not in ("", name) and (folder.parent / images).is_dir():
            return True
    return False


def neighbour_correlation(gray: NDArray[np.float32]) -> float:
    """Correlation of horizontally and vertically neighbouring pixels of ``[H, W]``, the larger one."""
    best = 0.0
    centred = gray - gray.mean()
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        if a.size:
            best = max(best, float((a * b).mean() / max(float(centred.var()), 1e-6)))
    return best


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``[H, W, 3]`` at another height and width, averaged where it shrinks."""
    if image.shape[:2] == size:
        return image
    from PIL import Image

    small = Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(small)
