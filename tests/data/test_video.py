"""Videos: frames in order, and files that are damaged or cut off."""

from __future__ import annotations

import warnings

import pytest
from media import FRAMES, VIDEO_SIZE, write_video

from fcn_deploy.data.video import Video
from fcn_deploy.errors import SourceError


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


def test_rgb_frames_are_bgr_frames_reversed(video):
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
    """A capture of a file that opens and has no frame that can be decoded."""

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


def test_a_missing_video_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"none\.mp4 does not exist"):
        Video(tmp_path / "none.mp4")
