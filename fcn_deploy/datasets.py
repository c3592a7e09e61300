"""Images, labels, videos and folders of them: what run, eval, calibration and bench read.

Sources are iterated, one frame in memory at a time. Images are decoded by Pillow, on every machine,
so that a frame is the same bytes wherever it is read; videos need OpenCV.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.files import atomic_output
from fcn_deploy.lazy import require
from fcn_deploy.spec import Color

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")

Image = NDArray[np.uint8]


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


def read_image(path: str | Path, color_order: str = "bgr") -> Image:
    """Decode an image, turned as its EXIF orientation says.

    Args:
        path: PNG, JPEG, BMP, WebP or TIFF. Grayscale and palette images become three channels,
            transparency is dropped, colours of 16 bits keep their upper 8.
        color_order: ``bgr`` or ``rgb``.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        SourceError: it is missing, damaged, cut off, or grayscale of more than 8 bits.
        UsageError: the colour order is unknown.
    """
    _known_order(color_order)
    ops = require("PIL.ImageOps", extra="cpu")
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise SourceError(f"{path} has more than 8 bits a pixel ({image.mode}); save it with 8 bits")
        rgb = np.asarray(ops.exif_transpose(image).convert("RGB"))
    return np.ascontiguousarray(rgb[..., ::-1]) if color_order == "bgr" else np.array(rgb)


def read_labels(path: str | Path) -> NDArray[np.uint8]:
    """Decode a label map: 8-bit grayscale or palette image whose value is the class id.

    Returns:
        uint8 ``[H, W]``.

    Raises:
        SourceError: it is missing, damaged, or has colours instead of class ids.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise SourceError(
                f"{path} is no label map: expected one 8-bit channel whose value is the class id, "
                f"found {image.mode}; convert its colours to class ids first"
            )
        labels: NDArray[np.uint8] = np.array(image, np.uint8)
    return labels


def write_labels(path: str | Path, labels: NDArray[np.uint8], palette: tuple[Color, ...] = ()) -> None:
    """Write a label map as a PNG atomically; the palette only colours it for the eye.

    Args:
        path: where it goes.
        labels: uint8 ``[H, W]``.
        palette: R, G, B colours by class id; none makes it grayscale.

    Raises:
        UsageError: it cannot be written.
    """
    image = require("PIL.Image", extra="cpu").fromarray(labels)
    if palette:
        flat = [channel for color in palette for channel in color]
        image.putpalette(flat + [0] * (768 - len(flat)))
    with atomic_output(path) as temporary:
        image.save(temporary, format="PNG")


class ImageFolder:
    """Every image below a folder, in the order of their paths; or one image.

    Raises:
        SourceError: the folder is missing, or holds no image.
    """

    def __init__(self, folder: str | Path, color_order: str = "bgr") -> None:
        self.folder = Path(folder)
        self.color_order = _known_order(color_order)
        if self.folder.is_file():
            self.paths = [self.folder]
            self.folder = self.folder.parent
        else:
            self.paths = _files_below(self.folder, IMAGE_SUFFIXES)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Frame:
        path = self.paths[index]
        image = read_image(path, self.color_order)
        return Frame(image, path.relative_to(self.folder).as_posix(), index)

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))


class LabelledFolder:
    """Images with their labels, in one of two layouts.

    ``DIR`` holds the images and ``DIRannot`` beside it the labels (CamVid), or ``DIR`` has ``images/``
    and ``labels/``. A label has the image's name, its suffix aside.

    Raises:
        SourceError: neither layout is there, or there is no image.
    """

    def __init__(self, folder: str | Path, color_order: str = "bgr") -> None:
        self.color_order = _known_order(color_order)
        root = _existing(Path(folder))
        beside = Path(f"{os.path.abspath(root)}annot")  # "." and ".." have no name of their own
        if (root / "images").is_dir() and (root / "labels").is_dir():
            self.images, self.annotations = root / "images", root / "labels"
        elif beside.is_dir():
            self.images, self.annotations = root, beside
        else:
            raise SourceError(
                f"{root} has no labels: expected {beside} beside it, or images/ and labels/ in it"
            )
        self.paths = _files_below(self.images, IMAGE_SUFFIXES)
        found = _files_below(self.annotations, LABEL_SUFFIXES, may_be_empty=True)
        self._labels = {self._stem(path, self.annotations): path for path in found}
        stems = {self._stem(path, self.images) for path in self.paths}
        self.orphans = tuple(path for stem, path in self._labels.items() if stem not in stems)
        """Label files without an image."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Frame:
        """Frame ``index`` with its labels.

        Raises:
            SourceError: the label is missing or of another size, or a file cannot be read.
        """
        path = self.paths[index]
        label = self._labels.get(self._stem(path, self.images))
        if label is None:
            raise SourceError(f"{path} has no label in {self.annotations}")
        image, labels = read_image(path, self.color_order), read_labels(label)
        if labels.shape != image.shape[:2]:
            raise SourceError(
                f"{label} is {labels.shape[0]}x{labels.shape[1]} and its image is "
                f"{image.shape[0]}x{image.shape[1]}; labels must have the frame's size"
            )
        return Frame(image, path.relative_to(self.images).as_posix(), index, labels)

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    @staticmethod
    def _stem(path: Path, root: Path) -> str:
        return path.relative_to(root).with_suffix("").as_posix()


class Video:
    """A video file, decoded by OpenCV; its file is closed however the iteration ends.

    Raises:
        SourceError: it is missing or cannot be decoded at all.
    """

    def __init__(self, path: str | Path, color_order: str = "bgr") -> None:
        self.path, self.color_order = Path(path), _known_order(color_order)
        if not self.path.is_file():
            raise SourceError(f"{self.path} does not exist; give a video, an image or a folder of images")
        cv2 = require("cv2", extra="opencv")
        capture = self._open()
        try:
            self.fps = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
            """Frames a second, as the file states them."""
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self.count = count if count > 0 else None
            """Frames, as the file states them; None where it does not."""
            self.size = (
                int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
                int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            )
            """Height and width."""
        finally:
            capture.release()

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order; a file that ends before its stated count is reported with a warning.

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
        """As iterating, for callers that compare with :attr:`count` themselves: nothing is warned of.

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


def open_source(path: str | Path, color_order: str = "bgr") -> ImageFolder | Video:
    """An image, a folder of images, or a video, told apart by what the path is.

    Raises:
        SourceError: it is missing, empty or cannot be read.
    """
    found = Path(path)
    if not found.exists():
        raise SourceError(f"{found} does not exist; give an image, a folder of images or a video")
    if found.is_dir() or found.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFolder(found, color_order)
    return Video(found, color_order)


def _files_below(folder: Path, suffixes: tuple[str, ...], *, may_be_empty: bool = False) -> list[Path]:
    found = sorted(p for p in _existing(folder).rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found and not may_be_empty:
        raise SourceError(f"{folder} holds no image; expected files ending in {', '.join(suffixes)}")
    return found


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise SourceError(f"{folder} {found}; give a folder with images")
    return folder


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A fully decoded Pillow image; every failure of Pillow's becomes one sentence."""
    pillow = require("PIL.Image", extra="cpu")
    if not Path(path).is_file():
        raise SourceError(f"{path} is not a file; give the path of an image")
    try:
        with warnings.catch_warnings():
            # Metadata that is odd is the writer's business; the pixels are read all the same.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as image:
                image.load()
                yield image
    except SourceError:
        raise
    except Exception as exc:  # Pillow raises many classes for damaged files
        raise SourceError(
            f"{path} cannot be read as an image ({type(exc).__name__}: {exc}); it is damaged, "
            "cut off or no image"
        ) from exc


def _known_order(color_order: str) -> str:
    if color_order not in ("bgr", "rgb"):
        raise UsageError(f"color_order must be bgr or rgb, not {color_order!r}")
    return color_order
