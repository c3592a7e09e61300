"""Images and label maps on disk, above all damaged and unusual ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from media import HEIGHT, WIDTH, noise, save
from PIL import Image

from fcn_deploy.classes import CAMVID_PALETTE
from fcn_deploy.data.images import read_image, read_labels, write_labels
from fcn_deploy.errors import SourceError, UsageError

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


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
def test_images_are_rotated_as_exif_says(tmp_path, orientation):
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
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, content, read):
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
def test_a_damaged_file_gives_an_image_or_a_source_error(tmp_path, suffix, data):
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


# Labels.


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


def test_the_palette_does_not_change_the_labels(tmp_path):
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
