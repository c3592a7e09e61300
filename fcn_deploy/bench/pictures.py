"""The labels of each artefact drawn over one of the measured frames, for the HTML page."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bench.frames import make_frames
from fcn_deploy.draw import overlay
from fcn_deploy.errors import FcnDeployError
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.location import locate, short_name
from fcn_deploy.runtimes.registry import backend_for, load


def draw_pictures(
    artefacts: Iterable[str | Path],
    size: tuple[int, int] = (360, 480),
    frames: str | Path | None = None,
    **options: Any,
) -> dict[str, bytes]:
    """A picture for each artefact, as :func:`~fcn_deploy.bench.report.write_html` takes them.

    An artefact that cannot be opened or run is left out; its row says why.

    Args:
        artefacts: those that were measured.
        size: height and width of the frame, in pixels.
        frames: what was measured: an image, a folder of images or a video; None is the synthetic clip.
        options: as :func:`fcn_deploy.load` takes them; each artefact gets those that its backend has.

    Returns:
        File name or URL -> PNG.

    Raises:
        SourceError: the frames cannot be read.
    """
    clip = make_frames(None if frames is None else Path(frames), *size)
    pictures = {}
    for artefact in artefacts:
        with suppress(FcnDeployError):
            pictures[short_name(locate(artefact))] = _picture(artefact, clip[len(clip) // 2], options)
    return pictures


def _picture(artefact: str | Path, image: NDArray[np.uint8], options: dict[str, Any]) -> bytes:
    """A PNG of the labels drawn over a frame, uint8 ``[H, W, 3]`` in B, G, R."""
    chosen = backend_for(locate(artefact))
    with load(artefact, **chosen.own_options(options)) as segmenter:
        spec = segmenter.spec
        ordered = image if spec.color_order == "bgr" else image[..., ::-1]
        drawn = overlay(ordered, segmenter.infer(ordered).labels[0], spec)
    rgb = drawn[..., ::-1] if spec.color_order == "bgr" else drawn
    encoded = io.BytesIO()
    require("PIL.Image", extra="cpu").fromarray(rgb).save(encoded, "PNG")
    return encoded.getvalue()
