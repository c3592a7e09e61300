"""Folders of images, with or without labels, read one frame at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fcn_deploy.data.frames import Frame
from fcn_deploy.data.images import IMAGE_SUFFIXES, LABEL_SUFFIXES, check_color_order, read_image, read_labels
from fcn_deploy.errors import SourceError


class ImageFolder:
    """Every image below a folder, in the order of their paths; or one image.

    Args:
        folder: a folder, or the path of one image.
        color_order: ``bgr`` or ``rgb``: of the frames.

    Raises:
        SourceError: the folder is missing, or holds no image.
        UsageError: the colour order is unknown.
    """

    def __init__(self, folder: str | Path, color_order: str = "bgr") -> None:
        self.folder = Path(folder)
        self.color_order = check_color_order(color_order)
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
    and ``labels/``. A label file has the name of its image; the suffix may differ.

    Args:
        folder: ``DIR``.
        color_order: ``bgr`` or ``rgb``: of the frames.

    Raises:
        SourceError: neither layout is there, or there is no image.
        UsageError: the colour order is unknown.
    """

    def __init__(self, folder: str | Path, color_order: str = "bgr") -> None:
        self.color_order = check_color_order(color_order)
        root = _existing(Path(folder))
        beside = Path(f"{os.path.abspath(root)}annot")  # abspath, because "." and ".." have no name
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
