"""Videos: sizes, colours, and what happens when one cannot be finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import frames_of

from fcn_deploy.camera.sinks import encoders
from fcn_deploy.camera.sinks import video_file as video
from fcn_deploy.camera.sinks.video_file import VIDEO_SUFFIXES, VideoFile, letterbox, video_encoders
from fcn_deploy.errors import BackendUnavailable, PipelineError, UsageError

cv2 = pytest.importorskip("cv2")


def written(path: Path, pictures: list[np.ndarray], order: str = "rgb", encoder: str | None = None) -> Path:
    with VideoFile(path, 10.0, encoder=encoder) as file:
        for picture in pictures:
            file.write(picture, order)
    return path


def usable() -> list[str]:
    return [name for name, reason in video_encoders().items() if reason is None]


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_every_suffix_gives_a_video_with_the_right_colours(tmp_path: Path, suffix: str, order: str) -> None:
    red = np.tile(np.array([250, 10, 10], np.uint8), (48, 64, 1))
    path = written(tmp_path / f"clip{suffix}", [red if order == "rgb" else red[..., ::-1]] * 3, order)
    found = frames_of(path)
    assert len(found) == 3
    assert found[0][24, 32].argmax() == 2  # red, in B, G, R
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("encoder", usable())
def test_every_encoder_writes_every_frame(tmp_path: Path, encoder: str) -> None:
    path = written(
        tmp_path / "clip.mkv", [np.full((32, 48, 3), 60 * i, np.uint8) for i in range(4)], encoder=encoder
    )
    assert [round(frame.mean() / 60) for frame in frames_of(path)] == [0, 1, 2, 3]


def test_a_frame_of_another_size_or_colour_order_is_converted(tmp_path: Path) -> None:
    blue = np.tile(np.array([250, 10, 10], np.uint8), (64, 32, 1))
    red = np.tile(np.array([250, 10, 10], np.uint8), (48, 64, 1))
    with VideoFile(tmp_path / "clip.mp4", 10.0) as file:
        file.write(red, "rgb")
        file.write(blue, "bgr")
    first, second = frames_of(tmp_path / "clip.mp4")
    assert first.shape == second.shape == (48, 64, 3)
    assert second[24, 32].argmax() == 0
    assert second[24, 2].max() < 40  # a black bar


def test_without_a_frame_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    VideoFile(path, 10.0).close()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


needs_ffmpeg = pytest.mark.skipif(
    encoders.why_no_ffmpeg() is not None, reason="no ffmpeg program with libx264 here"
)


@pytest.mark.parametrize("size", [(1, 1), (15, 17), (16, 33)])
def test_odd_sizes_are_made_even(tmp_path: Path, size: tuple[int, int]) -> None:
    found = frames_of(written(tmp_path / "clip.mp4", [np.full((*size, 3), 200, np.uint8)] * 2))
    assert [frame.shape for frame in found] == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 2


@needs_ffmpeg
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_encoder_is_an_error_and_its_frames_are_kept(tmp_path: Path, suffix: str) -> None:
    file = VideoFile(tmp_path / f"clip{suffix}", 10.0, encoder="ffmpeg")
    noise = np.random.default_rng(0)
    with pytest.raises(PipelineError, match=r"was cut short \(ffmpeg ended with -9\); it holds the first"):
        for index in range(200):
            file.write(noise.integers(0, 256, (120, 160, 3), dtype=np.uint8))
            if index == 120:
                file._encoder._process.kill()
                file._encoder._process.wait()
    file.close()
    assert 0 < len(frames_of(tmp_path / f"clip{suffix}")) <= file.frames == 121
    assert [p.name for p in tmp_path.iterdir()] == [f"clip{suffix}"]


@needs_ffmpeg
def test_ctrl_c_during_a_frame_keeps_the_frames_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = VideoFile(tmp_path / "clip.mp4", 10.0, encoder="ffmpeg")
    picture = np.full((120, 160, 3), 99, np.uint8)
    for _ in range(5):
        file.write(picture)

    def half(pipe, data) -> None:
        push(pipe, data[: len(data) // 2])
        raise KeyboardInterrupt

    push = encoders._write_all
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(encoders, "_write_all", half)
        file.write(picture)
    file.close()
    assert len(frames_of(tmp_path / "clip.mp4")) == 5


def test_a_discarded_video_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    file = VideoFile(path, 10.0)
    file.write(np.zeros((16, 16, 3), np.uint8))
    file.discard()
    file.close()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    with pytest.raises(UsageError, match="is closed"):
        file.write(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "fps", "encoder", "part"),
    [
        ("clip.gif", 10.0, None, "is no video"),
        ("clip.mp4", 0.0, None, "more than 0"),
        ("clip.mp4", float("nan"), None, "more than 0"),
        ("clip.mp4", 10.0, "av1", "choose from ffmpeg"),
        ("none/clip.mp4", 10.0, None, "none"),
    ],
)
def test_wrong_calls(tmp_path: Path, name: str, fps: float, encoder: str | None, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        VideoFile(tmp_path / name, fps, encoder=encoder)
    assert not list(tmp_path.iterdir())


def test_the_rate_must_be_set_before_the_first_frame(tmp_path: Path) -> None:
    file = VideoFile(tmp_path / "clip.mp4", None)
    with pytest.raises(UsageError, match="needs a rate"):
        file.write(np.zeros((16, 16, 3), np.uint8))
    file.discard()


def test_without_an_encoder_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {name: (lambda name=name: f"no {name}") for name in video.ENCODERS}
    monkeypatch.setattr(video, "_REASONS", reasons)
    with pytest.raises(BackendUnavailable, match=r"no ffmpeg; no opencv-h264; no opencv"):
        VideoFile(tmp_path / "clip.mp4", 10.0)


@settings(max_examples=25)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    to=st.tuples(st.integers(1, 40).map(lambda n: 2 * n), st.integers(1, 40).map(lambda n: 2 * n)),
)
def test_any_frame_is_letterboxed_into_any_size(height: int, width: int, to: tuple[int, int]) -> None:
    placed = letterbox(np.full((height, width, 3), 77, np.uint8), to)
    assert placed.shape == (*to, 3)
    assert set(np.unique(placed)) <= {0, 77}
    assert (placed == 77).any()
