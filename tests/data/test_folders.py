"""Folders of images, with and without labels."""

from __future__ import annotations

import numpy as np
import pytest
from media import HEIGHT, WIDTH, noise, save

from fcn_deploy.data.folders import ImageFolder, LabelledFolder
from fcn_deploy.data.images import write_labels
from fcn_deploy.errors import SourceError


def test_a_folder_is_read_with_its_sub_folders_in_order(tmp_path):
    for i, name in enumerate(["b/2.JPG", "b/1.Png", "a.jpeg", "c/d/e.TIFF"]):
        save(tmp_path / name, noise(height=2 + i))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    frames = ImageFolder(tmp_path)
    assert len(frames) == 4
    assert [frame.name for frame in frames] == ["a.jpeg", "b/1.Png", "b/2.JPG", "c/d/e.TIFF"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.image.shape[0] for frame in frames] == [4, 3, 2, 5]
    assert all(frame.labels is None for frame in frames)


def test_a_folder_uses_its_colour_order(tmp_path):
    save(tmp_path / "a.png")
    assert (ImageFolder(tmp_path, "rgb")[0].image == noise()).all()


def test_one_image_is_a_source_of_one_frame(tmp_path):
    path = save(tmp_path / "a.png")
    (frame,) = ImageFolder(path)
    assert frame.name == "a.png"


def test_a_damaged_image_in_a_folder_is_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    frames = iter(ImageFolder(tmp_path))
    next(frames)
    with pytest.raises(SourceError, match=r"b\.png"):
        next(frames)


@pytest.mark.parametrize("source", [ImageFolder, LabelledFolder])
def test_a_missing_folder_is_refused(tmp_path, source):
    with pytest.raises(SourceError, match="none does not exist"):
        source(tmp_path / "none")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match="holds no image"):
        ImageFolder(tmp_path)


# With labels.


@pytest.fixture(params=["beside", "within"])
def layout(request, tmp_path):
    """The folder to open, and where its images and labels are."""
    root = tmp_path / "val"
    if request.param == "beside":
        images, labels = root, tmp_path / "valannot"
    else:
        images, labels = root / "images", root / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    return root, images, labels


def put(images, labels, name, value=3, size=(HEIGHT, WIDTH)):
    save(images / f"{name}.jpg")
    (labels / name).parent.mkdir(parents=True, exist_ok=True)
    write_labels(labels / f"{name}.png", np.full(size, value, np.uint8))


def test_both_layouts_pair_images_with_labels(layout):
    root, images, labels = layout
    for value, name in enumerate(["0001.left", "0001.right", "city/0001"]):
        put(images, labels, name, value)
    dataset = LabelledFolder(root)
    assert len(dataset) == 3
    assert [frame.name for frame in dataset] == ["0001.left.jpg", "0001.right.jpg", "city/0001.jpg"]
    assert [int(frame.labels.max()) for frame in dataset] == [0, 1, 2]
    assert dataset.orphans == ()


def test_a_missing_label_is_named_when_its_frame_is_read(layout):
    root, images, labels = layout
    put(images, labels, "a")
    save(images / "b.png")
    dataset = LabelledFolder(root)
    assert dataset[0].labels is not None
    with pytest.raises(SourceError, match=r"b\.png has no label in .*"):
        dataset[1]


def test_a_label_of_another_size_is_refused(layout):
    root, images, labels = layout
    put(images, labels, "a", size=(HEIGHT, WIDTH + 1))
    with pytest.raises(SourceError, match=r"a\.png is 6x9 and its image is 6x8"):
        LabelledFolder(root)[0]


def test_a_label_in_colours_is_refused(layout):
    root, images, labels = layout
    put(images, labels, "a")
    save(labels / "a.png")
    with pytest.raises(SourceError, match="is no label map"):
        LabelledFolder(root)[0]


def test_labels_without_an_image_are_orphans(layout):
    root, images, labels = layout
    put(images, labels, "a")
    write_labels(labels / "b.png", np.zeros((2, 2), np.uint8))
    dataset = LabelledFolder(root)
    assert len(dataset) == 1
    assert dataset.orphans == (labels / "b.png",)


def test_labels_without_any_image_are_refused(layout):
    root, _, labels = layout
    write_labels(labels / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(SourceError, match="holds no image"):
        LabelledFolder(root)


def test_without_labels_the_error_says_where_they_are_expected(tmp_path):
    save(tmp_path / "val" / "a.png")
    with pytest.raises(SourceError, match=r"val has no labels: expected .*valannot beside it, or images/"):
        LabelledFolder(tmp_path / "val")


def test_the_folder_may_be_the_current_one(tmp_path, monkeypatch):
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    put(tmp_path / "val", tmp_path / "valannot", "a", value=7)
    monkeypatch.chdir(tmp_path / "val")
    assert LabelledFolder(".")[0].labels.max() == 7


@pytest.mark.camvid
def test_the_real_camvid_frames_are_paired(camvid):
    dataset = LabelledFolder(camvid / "val")
    assert len(dataset) > 0 and dataset.orphans == ()
    frame = dataset[0]
    assert frame.labels.shape == frame.image.shape[:2]
    assert frame.labels.max() <= 11
