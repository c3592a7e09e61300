"""Calibration frames: which are taken, which are refused, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.errors import SourceError
from fcn_deploy.spec import Architecture, ModelSpec

SPEC = ModelSpec(classes=("road", "sky"), architecture=Architecture("fcn8s-lite"))


def picture(seed: int, level: float = 110.0) -> np.ndarray:
    """A smooth uint8 ``[30, 40, 3]`` picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((40, 30), Image.BICUBIC)
    array = np.asarray(small, np.float32)
    return np.clip(array - array.mean() + level, 0, 255).astype(np.uint8)


def folder(path: Path, pictures: list[np.ndarray], start: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pictures, start):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def survey(frames: CalibrationFrames):
    for _ in frames:
        pass
    assert frames.seen is not None
    return frames.seen


def test_frames_come_one_a_batch_in_the_spec_s_order(tmp_path: Path) -> None:
    image = picture(0)
    source = folder(tmp_path / "a", [image])
    (bgr,) = CalibrationFrames(source, SPEC)
    (rgb,) = CalibrationFrames(source, SPEC.replace(color_order="rgb"))
    np.testing.assert_array_equal(bgr, image[None, ..., ::-1])
    np.testing.assert_array_equal(rgb, image[None])


def test_too_many_are_thinned_out_evenly_with_both_ends(tmp_path: Path) -> None:
    images = [picture(i) for i in range(11)]
    frames = list(CalibrationFrames(folder(tmp_path / "a", images), SPEC, max_frames=3))
    assert len(frames) == 3
    for frame, index in zip(frames, (0, 5, 10), strict=True):
        np.testing.assert_array_equal(frame[0], images[index][..., ::-1])


def test_a_video_is_thinned_out_as_well(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (40, 30))
    for i in range(9):
        writer.write(picture(i))
    writer.release()
    frames = CalibrationFrames(path, SPEC, max_frames=4)
    assert [frame.shape for frame in frames] == [(1, 30, 40, 3)] * 4
    assert len(frames) == 4


def test_frames_are_resized_on_request(tmp_path: Path) -> None:
    frames = CalibrationFrames(folder(tmp_path / "a", [picture(0)]), SPEC, size=(12, 16))
    assert [frame.shape for frame in frames] == [(1, 12, 16, 3)]


@pytest.mark.parametrize("layout", ["camvid", "pairs"])
def test_labels_of_a_data_set_are_never_frames(tmp_path: Path, layout: str) -> None:
    images, labels = ("train", "trainannot") if layout == "camvid" else ("images", "labels")
    folder(tmp_path / images, [picture(0), picture(1)])
    (tmp_path / labels).mkdir()
    for i in range(2):
        Image.fromarray(np.full((30, 40), i, np.uint8)).save(tmp_path / labels / f"{i:03d}.png")
    assert len(list(CalibrationFrames(tmp_path, SPEC))) == 2


def test_the_hash_follows_the_pixels_and_not_the_names(tmp_path: Path) -> None:
    images = [picture(0), picture(1)]
    first = survey(CalibrationFrames(folder(tmp_path / "a", images), SPEC)).sha256
    renamed = survey(CalibrationFrames(folder(tmp_path / "b", images, start=7), SPEC)).sha256
    images[1][3, 4, 1] ^= 1
    changed = survey(CalibrationFrames(folder(tmp_path / "c", images), SPEC)).sha256
    assert first == renamed != changed


@pytest.mark.parametrize("word", ["random", "synthetic", "none"])
def test_a_word_is_no_source(word: str) -> None:
    with pytest.raises(SourceError, match="needs frames of your camera"):
        CalibrationFrames(Path(word), SPEC)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no image"):
        CalibrationFrames(tmp_path, SPEC)


def test_blank_frames_are_refused_when_all_are_and_told_when_some_are(tmp_path: Path) -> None:
    blank = np.zeros((30, 40, 3), np.uint8)
    with pytest.raises(SourceError, match=r"all 3 frames of .* are blank"):
        list(CalibrationFrames(folder(tmp_path / "a", [blank] * 3), SPEC))
    seen = survey(CalibrationFrames(folder(tmp_path / "b", [blank] + [picture(i) for i in range(9)]), SPEC))
    assert "1 of 10 calibration frames are blank or noise" in seen.warnings(SPEC)


def test_noise_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(4)]
    with pytest.raises(SourceError, match="look like random noise"):
        list(CalibrationFrames(folder(tmp_path / "a", noise), SPEC))


def test_few_frames_are_told(tmp_path: Path) -> None:
    seen = survey(CalibrationFrames(folder(tmp_path / "a", [picture(0)]), SPEC))
    assert any(told.startswith("1 frame to calibrate on is few") for told in seen.warnings(SPEC))


def test_frames_far_from_the_mean_are_told_and_others_are_not(tmp_path: Path) -> None:
    good = survey(CalibrationFrames(folder(tmp_path / "a", [picture(i) for i in range(9)]), SPEC))
    dark = survey(CalibrationFrames(folder(tmp_path / "b", [picture(i, 20) for i in range(9)]), SPEC))
    assert good.warnings(SPEC) == []
    assert any("far from the model's mean" in told for told in dark.warnings(SPEC))


def test_frames_of_another_size_than_the_only_one_are_refused_or_resized(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", [picture(0)])
    fixed = SPEC.replace(fixed_shape=(1, 20, 30))
    with pytest.raises(SourceError, match="takes 20x30 only; scale them: quantize does it with --size 20x30"):
        next(iter(CalibrationFrames(source, fixed)))
    (batch,) = CalibrationFrames(source, fixed, size=(20, 30))
    assert batch.shape == (1, 20, 30, 3)


def test_a_model_without_a_mean_says_nothing_about_colours(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", [picture(i) for i in range(8)])
    for mean, warned in (((0.0, 0.0, 0.0), False), ((1.0, 0.0, 0.0), True)):
        spec = SPEC.replace(mean=mean)
        said = survey(CalibrationFrames(source, spec)).warnings(spec)
        assert any("far from the model's mean" in sentence for sentence in said) == warned
