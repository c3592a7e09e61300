"""Videos: sizes, colours, and what happens when one cannot be finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.cli import outputs
from fcn_deploy.errors import UsageError

cv2 = pytest.importorskip("cv2")


def first_frame(path: Path) -> np.ndarray:
    capture = cv2.VideoCapture(str(path))
    ok, frame = capture.read()
    capture.release()
    assert ok
    return frame


@pytest.mark.parametrize("suffix", outputs.VIDEOS)
def test_every_suffix_gives_a_video_with_the_right_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with outputs.video_file(path, 10.0) as append:
        append(np.tile(np.array([250, 10, 10], np.uint8), (48, 64, 1)))
    assert first_frame(path)[24, 32].argmax() == 2  # red, in B, G, R


def test_a_video_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), outputs.video_file(path, 10.0) as append:
        append(np.zeros((16, 16, 3), np.uint8))
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_frames_that_did_not_arrive_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV says nothing when the disk is full: the file is asked."""
    path = tmp_path / "clip.mp4"
    with pytest.raises(UsageError, match="is the disk full"), outputs.video_file(path, 10.0) as append:
        append(np.zeros((16, 16, 3), np.uint8))
        append(np.zeros((16, 16, 3), np.uint8))
        monkeypatch.setattr(cv2.VideoCapture, "get", lambda *_: 1.0, raising=False)
    assert not list(tmp_path.iterdir())


@settings(max_examples=25)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    to=st.tuples(st.integers(1, 40).map(lambda n: 2 * n), st.integers(1, 40).map(lambda n: 2 * n)),
)
def test_any_frame_fits_any_video(height: int, width: int, to: tuple[int, int]) -> None:
    picture = np.full((height, width, 3), 77, np.uint8)
    fitted = outputs._fitted(cv2, picture, to)
    assert fitted.shape == (*to, 3)
    assert fitted[0, 0].tolist() == [77, 77, 77]
