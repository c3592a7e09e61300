"""What is given as a source is parsed, refused with a reason, and shown without its passwords."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.camera.sources.addresses import STREAM_SCHEMES, parse_address, redacted
from fcn_deploy.errors import UsageError


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
def test_a_source_is_parsed(what, kind, target):
    address = parse_address(what)
    assert (address.kind, address.target) == (kind, target)


@given(st.sampled_from(STREAM_SCHEMES), st.from_regex(r"[a-z]{1,9}(:[0-9]{1,5})?/[a-z]{0,5}", fullmatch=True))
def test_every_stream_scheme_is_a_url_and_shown_unchanged_without_a_password(scheme, rest):
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
def test_an_invalid_source_is_refused(what, complaint):
    with pytest.raises(UsageError, match=complaint) as refused:
        parse_address(what)
    assert "secret" not in str(refused.value)


# Passwords.

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
def test_secrets_are_hidden_and_the_rest_is_shown(shown, text):
    assert redacted(text) == shown
