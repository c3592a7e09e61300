"""A path is opened as an image, a folder or a video."""

from __future__ import annotations

import sys

import pytest
from media import noise, save

from fcn_deploy.data.folders import ImageFolder
from fcn_deploy.data.images import read_image
from fcn_deploy.data.opening import open_frames
from fcn_deploy.data.video import Video
from fcn_deploy.errors import MissingDependency, SourceError, UsageError


def test_an_unknown_colour_order_is_refused(tmp_path):
    path = save(tmp_path / "frames" / "a.png")
    for open_it in (read_image, ImageFolder, open_frames, Video):
        with pytest.raises(UsageError, match="bgr or rgb, not 'gbr'"):
            open_it(path, "gbr")


def test_the_path_decides_what_is_opened(tmp_path, video):
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


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 20])
def test_a_file_that_is_only_named_like_a_video(cv2, tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.mp4 cannot be decoded"):
        open_frames(path)


def test_without_opencv_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(MissingDependency, match=r"fcn-deploy\[opencv\]"):
        open_frames(tmp_path / "a.mp4")
