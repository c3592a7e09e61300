"""A picture of each artefact's labels, whatever its colour order."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.bench.pictures import draw_pictures
from fcn_deploy.errors import SourceError


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_the_labels_are_drawn_over_a_frame(
    order: str, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    Image.new("RGB", (20, 12), (200, 10, 30)).save(tmp_path / "red.png")
    palette = ((0, 0, 100), (0, 100, 0), (100, 0, 0))
    # The label is the brightest channel, so red pixels are the class of the first channel in R, G, B order.
    artefact = make_onnx(color_order=order, palette=palette if order == "bgr" else palette[::-1])
    pictures = draw_pictures([artefact], (12, 20), tmp_path / "red.png", threads=1)
    assert list(pictures) == ["tiny.onnx"]
    drawn = np.asarray(Image.open(io.BytesIO(pictures["tiny.onnx"])))
    assert drawn.shape == (12, 20, 3)
    assert drawn[11, 19].tolist() == [150, 5, 15]  # half the frame, half (100, 0, 0)


def test_an_artefact_that_cannot_be_opened_is_left_out(
    make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"\x08")
    assert list(draw_pictures([tmp_path / "damaged.onnx", make_onnx()], (12, 20))) == ["tiny.onnx"]


def test_frames_that_cannot_be_read_are_an_error(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        draw_pictures([make_onnx()], frames=tmp_path / "none")
