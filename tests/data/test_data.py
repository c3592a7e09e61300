"""Images, labels, folders and videos, above all those that are not as they should be."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.data.folders import ImageFolder, LabelledFolder
from fcn_deploy.data.images import read_image, read_labels, write_labels
from fcn_deploy.data.opening import open_frames
from fcn_deploy.data.video import Video
from fcn_deploy.errors import MissingDependency, SourceError, UsageError

HEIGHT, WIDTH = 6, 8
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(height=HEIGHT, width=WIDTH, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


# --- one image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG", ".webp"])
def test_images_are_read_in_the_colour_order_asked_for(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", **options)
    assert (read_image(path, "rgb") == noise()).all()
    assert (read_image(path) == noise()[..., ::-1]).all()
    for order in ("rgb", "bgr"):
        image = read_image(path, order)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous and image.flags.writeable


def test_an_unknown_colour_order_is_refused(tmp_path):
    path = save(tmp_path / "frames" / "a.png")
    for open_it in (read_image, ImageFolder, open_frames, Video):
        with pytest.raises(UsageError, match="bgr or rgb, not 'gbr'"):
            open_it(path, "gbr")


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_three_channels(tmp_path, mode):
    picture = Image.fromarray(np.full((HEIGHT, WIDTH, 3), 255, np.uint8)).convert(mode)
    picture.save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.min() >= 254


def test_transparency_is_dropped_and_not_mixed_in(tmp_path):
    pixels = np.dstack([noise(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert (read_image(save(tmp_path / "a.png", pixels), "rgb") == noise()).all()


def test_a_palette_with_transparent_entries_is_read(tmp_path):
    picture = Image.fromarray(noise()).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert (read_image(tmp_path / "a.png", "rgb") == np.asarray(picture.convert("RGB"))).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_grayscale_is_refused(tmp_path, dtype):
    path = save(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), dtype))
    with pytest.raises(SourceError, match=r"a\.tif has more than 8 bits a pixel"):
        read_image(path)


def test_colours_of_16_bits_keep_their_upper_8(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((2, 2, 3), (0xFFFF, 0x80AA, 0x00FF), np.uint16))
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [0xFF, 0x80, 0x00]


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", exif=exif)
    assert (read_image(path, "rgb") == TURNS[orientation](noise())).all()


def test_an_orientation_that_does_not_exist_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    assert (read_image(save(tmp_path / "a.png", exif=exif), "rgb") == noise()).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
def test_a_truncated_image_is_refused_by_name(tmp_path, suffix, share):
    path = save(tmp_path / f"cut{suffix}", noise(40, 50))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=r"cut.* is damaged, cut off or no image"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"not an image at all", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_what_is_no_image_is_refused_by_name(tmp_path, content, read):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.png cannot be read as an image"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_missing_image_and_a_folder_are_refused_by_name(tmp_path, read):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(SourceError, match=f"{path.name} is not a file"):
            read(path)


@in_one_folder
@given(st.data())
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_damage_anywhere_is_a_picture_or_a_source_error(tmp_path, suffix, data):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, **({"exif": exif} if suffix != ".bmp" else {}))
    raw = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        image = read_image(path)
    except SourceError as exc:
        assert path.name in str(exc)
    else:
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(SourceError, match=r"huge\.png .*DecompressionBomb"):
        read_image(path)


# --- labels ------------------------------------------------------------------------------------


@in_one_folder
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)),
    palette=st.sampled_from([(), CAMVID_PALETTE]),
)
def test_labels_come_back_as_they_were_written(tmp_path, labels, palette):
    write_labels(tmp_path / "a.png", labels, palette)
    back = read_labels(tmp_path / "a.png")
    assert back.dtype == np.uint8
    assert (back == labels).all()


def test_the_palette_only_colours_the_labels(tmp_path):
    labels = np.array([[0, 10, 255]], np.uint8)
    write_labels(tmp_path / "a.png", labels, CAMVID_PALETTE)
    expected = np.array([[CAMVID_PALETTE[0], CAMVID_PALETTE[10], (0, 0, 0)]], np.uint8)
    assert (read_image(tmp_path / "a.png", "rgb") == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_labels_of_another_kind_are_refused(tmp_path, mode):
    Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match=f"a.png is no label map: .* found {mode}"):
        read_labels(tmp_path / "a.png")


def test_labels_of_two_classes_may_have_one_bit(tmp_path):
    save(tmp_path / "a.png", np.eye(4, dtype=bool))
    assert (read_labels(tmp_path / "a.png") == np.eye(4)).all()


def test_labels_that_cannot_be_written_are_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        write_labels(tmp_path / "none" / "a.png", np.zeros((2, 2), np.uint8))


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_is_read_with_its_folders_in_order(tmp_path):
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


def test_a_folder_hands_its_colour_order_on(tmp_path):
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


# --- labelled folders --------------------------------------------------------------------------


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


def test_a_folder_without_labels_says_where_they_belong(tmp_path):
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


# --- video -------------------------------------------------------------------------------------

FRAMES, VIDEO_SIZE = 8, (48, 64)


@pytest.fixture(scope="module")
def cv2():
    return pytest.importorskip("cv2")


def write_video(cv2, path, codec):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, VIDEO_SIZE[::-1])
    for i in range(FRAMES):
        writer.write(np.full((*VIDEO_SIZE, 3), (30 * i, 60, 250 - 30 * i), np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(cv2, tmp_path_factory):
    return write_video(cv2, tmp_path_factory.mktemp("video") / "clip.mp4", "mp4v")


@pytest.fixture
def captures(cv2, monkeypatch):
    """Every capture that is opened."""
    opened = []
    real = cv2.VideoCapture

    def watched(name):
        opened.append(real(name))
        return opened[-1]

    monkeypatch.setattr(cv2, "VideoCapture", watched)
    return opened


def test_a_video_gives_its_frames_in_order(video):
    clip = Video(video)
    assert (clip.fps, clip.count, clip.size) == (10.0, FRAMES, VIDEO_SIZE)
    frames = list(clip)
    assert [frame.name for frame in frames] == [f"{i:06d}" for i in range(FRAMES)]
    assert [frame.index for frame in frames] == list(range(FRAMES))
    blue = [float(frame.image[..., 0].mean()) for frame in frames]
    assert blue == pytest.approx([30 * i for i in range(FRAMES)], abs=12)
    assert len(list(clip)) == FRAMES  # a second time


def test_a_video_in_rgb_is_the_one_in_bgr_reversed(video):
    for rgb, bgr in zip(Video(video, "rgb"), Video(video), strict=True):
        assert rgb.image.flags.c_contiguous
        assert (rgb.image == bgr.image[..., ::-1]).all()


def test_the_file_is_closed_however_the_iteration_ends(video, captures):
    frames = iter(Video(video))
    next(frames)
    assert captures[-1].isOpened()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # leaving early is no damage
        frames.close()
    list(Video(video))
    assert len(captures) == 4
    assert not any(capture.isOpened() for capture in captures)


def test_a_video_without_its_index_cannot_be_decoded(video, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[:400])
    with pytest.raises(SourceError, match=r"cut\.mp4 cannot be decoded as an image or a video"):
        Video(path)


def test_a_video_that_ends_early_is_reported(cv2, tmp_path, captures):
    path = write_video(cv2, tmp_path / "cut.avi", "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    with pytest.warns(UserWarning, match=r"cut\.avi states 8 frames and gave \d: it is damaged or cut off"):
        frames = list(Video(path))
    assert 0 < len(frames) < FRAMES
    assert not any(capture.isOpened() for capture in captures)


class NoFrames:
    """A capture of a file that opens and holds nothing that can be decoded."""

    def __init__(self, name):
        pass

    def isOpened(self):
        return True

    def get(self, what):
        return 0.0

    def read(self):
        return False, None

    def release(self):
        pass


def test_a_video_without_one_frame_is_an_error(cv2, video, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", NoFrames)
    clip = Video(video)
    assert (clip.count, clip.fps) == (None, 25.0)
    with pytest.raises(SourceError, match="holds no frame that can be decoded"):
        list(clip)


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 20])
def test_a_file_that_is_only_named_like_a_video(cv2, tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.mp4 cannot be decoded"):
        open_frames(path)


def test_a_missing_video_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"none\.mp4 does not exist"):
        Video(tmp_path / "none.mp4")


def test_without_opencv_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(MissingDependency, match=r"fcn-deploy\[opencv\]"):
        open_frames(tmp_path / "a.mp4")


# --- whichever it is ---------------------------------------------------------------------------


def test_a_source_is_told_apart_by_what_it_is(tmp_path, video):
    image = save(tmp_path / "frames" / "A.PNG")
    assert isinstance(open_frames(video), Video)
    assert isinstance(open_frames(str(tmp_path / "frames")), ImageFolder)
    assert len(open_frames(image)) == 1
    assert (next(iter(open_frames(image, "rgb"))).image == noise()).all()


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(
        SourceError, match="none does not exist; give an image, a folder of images or a video"
    ):
        open_frames(tmp_path / "none")
