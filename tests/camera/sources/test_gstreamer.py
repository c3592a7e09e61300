"""GStreamer pipelines: a Jetson's camera, and the user's own."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.camera.sources.gstreamer import checked_pipeline, csi_pipeline
from fcn_deploy.errors import UsageError


def test_the_pipeline_of_a_jetson_camera():
    assert csi_pipeline(1, (1080, 1920), 29.97) == (
        "nvarguscamerasrc sensor-id=1 "
        "! video/x-raw(memory:NVMM), width=1920, height=1080, framerate=2997/100 "
        "! nvvidconv flip-method=0 ! video/x-raw, width=1920, height=1080, format=BGRx "
        "! videoconvert ! video/x-raw, format=BGR "
        "! appsink drop=true max-buffers=1 sync=false"
    )


@pytest.mark.parametrize(("rotate", "flip", "size"), [(90, 3, (3, 5)), (180, 2, (5, 3)), (270, 1, (3, 5))])
def test_a_jetson_rotates_the_frames_itself(rotate, flip, size):
    pipeline = csi_pipeline(0, (3, 5), rotate=rotate)
    assert f"nvvidconv flip-method={flip} ! video/x-raw, width={size[0]}, height={size[1]}" in pipeline


@given(st.floats(1, 240))
def test_the_rate_of_a_jetson_camera_is_a_fraction_close_to_what_was_asked(fps):
    text = csi_pipeline(0, fps=fps).partition("framerate=")[2].partition(" ")[0]
    assert float(Fraction(text)) == pytest.approx(fps, rel=1e-3)


def test_the_users_pipeline_is_not_changed():
    assert checked_pipeline("videotestsrc ! appsink drop=true") == "videotestsrc ! appsink drop=true"


def test_a_pipeline_without_appsink_is_refused_without_its_password():
    with pytest.raises(UsageError, match=r"gives no frames; end it with: ! appsink drop=true") as refused:
        checked_pipeline("rtspsrc location=rtsp://u:SECRET@c/appsink ! autovideosink")
    assert "SECRET" not in str(refused.value)
