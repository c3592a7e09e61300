"""Images from OpenCV become frames: three channels, colour order, rotation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.camera.sources.images import rotated, three_channels

pytest.importorskip("cv2")


@given(
    shape=st.sampled_from([(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)]),
    color_order=st.sampled_from(["bgr", "rgb"]),
    degrees=st.sampled_from([0, 90, 180, 270]),
)
def test_every_image_becomes_three_channels_in_colour_order_and_rotated(shape, color_order, degrees):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    grey_or_colour = image[..., :3] if image.ndim == 3 else image[..., None]
    expected = np.broadcast_to(grey_or_colour, (3, 5, 3))
    if color_order == "rgb":
        expected = expected[..., ::-1]
    got = rotated(three_channels(image, color_order), degrees)
    assert got.dtype == np.uint8
    assert (got == np.rot90(expected, -degrees // 90)).all()


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (None, "empty"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 4), np.uint16), r"uint16 \[4, 4\] came"),
        (np.zeros((4, 4, 2), np.uint8), r"uint8 \[4, 4, 2\] came"),
    ],
    ids=["none", "empty", "16 bits", "two channels"],
)
def test_an_image_that_cannot_be_a_frame_is_refused(image, complaint):
    with pytest.raises(ValueError, match=complaint):
        three_channels(image, "bgr")
