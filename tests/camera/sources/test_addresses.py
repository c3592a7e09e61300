"""What the user typed is told apart, refused with a reason, and shown without its passwords."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.camera.sources.addresses import STREAM_SCHEMES, parse_address, redacted
from fcn_deploy.camera.sources.gstreamer import checked_pipeline, csi_pipeline
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.errors import UsageError

# --- told apart --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "kind", "target"),
    [
        ("clip.mp4", "file", "clip.mp4"),
        ("./0", "file", "./0"),
        (Path("0"), "file", "0"),
        ("file:///clips/a%20b.mp4", "file", "/clips/a b.mp4"),
        (r"C:\clips\a.mp4", "file", r"C:\clips\a.mp4"),
        (0, "device", 0),
        ("0", "device", 0),
        (" 12 ", "device", 12),
        ("/dev/video0", "device", "/dev/video0"),
        ("/dev/v4l/by-id/usb-cam", "device", "/dev/v4l/by-id/usb-cam"),
        ("csi://1", "csi", 1),
        ("CSI://0", "csi", 0),
        ("RTSP://camera/stream", "url", "RTSP://camera/stream"),
        ("videotestsrc ! appsink", "gstreamer", "videotestsrc ! appsink"),
        ("rtspsrc location=rtsp://a/b ! appsink", "gstreamer", "rtspsrc location=rtsp://a/b ! appsink"),
    ],
)
def test_a_source_is_told_by_what_it_looks_like(what, kind, target):
    address = parse_address(what)
    assert (address.kind, address.target) == (kind, target)


@given(st.sampled_from(STREAM_SCHEMES), st.from_regex(r"[a-z]{1,9}(:[0-9]{1,5})?/[a-z]{0,5}", fullmatch=True))
def test_every_stream_scheme_is_a_url_and_shown_as_it_is_where_it_hides_nothing(scheme, rest):
    address = parse_address(f"{scheme}://{rest}")
    assert (address.kind, address.target, address.name) == ("url", f"{scheme}://{rest}", f"{scheme}://{rest}")


@given(st.integers(0, 99))
def test_a_number_and_its_digits_are_the_same_camera(number):
    assert parse_address(number) == parse_address(str(number))


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("", "the source is empty"),
        ("  ", "the source is empty"),
        (-1, "0 or more, not -1"),
        (
            "ftp://u:secret@camera/x",
            r"ftp://\*\*\*@camera/x has an unknown scheme; choose from csi, file, rtsp",
        ),
        ("csi://front", r"such as csi://0, not csi://front"),
        ("csi://", "such as csi://0"),
        ("csi://u:secret@0", r"not csi://\*\*\*@0"),
    ],
)
def test_what_can_be_no_source_is_refused(what, complaint):
    with pytest.raises(UsageError, match=complaint) as refused:
        parse_address(what)
    assert "secret" not in str(refused.value)


# --- passwords ---------------------------------------------------------------------------------

SECRET = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).map(lambda text: f"SEC{text}RET")


@given(st.sampled_from(STREAM_SCHEMES), SECRET)
def test_a_password_is_never_shown_whatever_is_in_it(scheme, password):
    name = parse_address(f"{scheme}://admin:{password}@camera.example/stream").name
    assert password not in name
    assert "admin" not in name
    assert name == f"{scheme}://***@camera.example/stream"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("http://c/v?user=***&pwd=***&channel=1", "http://c/v?user=joe&pwd=SECRET&channel=1"),
        ("rtsp://c/user=***&password=***&stream=0", "rtsp://c/user=joe&password=SECRET&stream=0"),
        ("https://c/v?access_token=***", "https://c/v?access_token=SECRET"),
        ("rtsp://c/v?channel=1&subtype=0", "rtsp://c/v?channel=1&subtype=0"),
        (
            "rtspsrc location=rtsp://***@c/v user-pw=*** ! appsink name=a@b",
            "rtspsrc location=rtsp://u:SECRET@c/v user-pw=SECRET ! appsink name=a@b",
        ),
        (
            'souphttpsrc user-pw=*** location="http://c" ! appsink',
            'souphttpsrc user-pw="a SECRET" location="http://c" ! appsink',
        ),
    ],
)
def test_secrets_go_and_the_rest_stays(shown, text):
    assert redacted(text) == shown


# --- pipelines ---------------------------------------------------------------------------------


def test_the_pipeline_of_a_jetson_camera():
    assert csi_pipeline(1, (1080, 1920), 29.97) == (
        "nvarguscamerasrc sensor-id=1 "
        "! video/x-raw(memory:NVMM), width=1920, height=1080, framerate=2997/100 "
        "! nvvidconv flip-method=0 ! video/x-raw, width=1920, height=1080, format=BGRx "
        "! videoconvert ! video/x-raw, format=BGR "
        "! appsink drop=true max-buffers=1 sync=false"
    )


@pytest.mark.parametrize(("rotate", "flip", "size"), [(90, 3, (3, 5)), (180, 2, (5, 3)), (270, 1, (3, 5))])
def test_a_jetson_turns_the_frames_itself(rotate, flip, size):
    pipeline = csi_pipeline(0, (3, 5), rotate=rotate)
    assert f"nvvidconv flip-method={flip} ! video/x-raw, width={size[0]}, height={size[1]}" in pipeline


@given(st.floats(1, 240))
def test_the_rate_of_a_jetson_camera_is_a_fraction_close_to_what_was_asked(fps):
    text = csi_pipeline(0, fps=fps).partition("framerate=")[2].partition(" ")[0]
    assert float(Fraction(text)) == pytest.approx(fps, rel=1e-3)


def test_a_pipeline_of_the_users_stays_as_it_is():
    assert checked_pipeline("videotestsrc ! appsink drop=true") == "videotestsrc ! appsink drop=true"


def test_a_pipeline_without_appsink_is_refused_without_its_password():
    with pytest.raises(UsageError, match=r"gives no frames; end it with: ! appsink drop=true") as refused:
        checked_pipeline("rtspsrc location=rtsp://u:SECRET@c/appsink ! autovideosink")
    assert "SECRET" not in str(refused.value)


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotate": 45},
        {"pace": "slow"},
        {"transport": "quic"},
        {"size": (0, 640)},
        {"size": (480,)},
        {"pixel_format": "MJPEG"},
        {"decoder_threads": 0},
        {"fps": 0},
        {"read_timeout": float("nan")},
        {"open_timeout": -1},
        {"give_up": float("inf")},
    ],
    ids=str,
)
def test_options_outside_their_range_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SourceOptions(**wrong)
