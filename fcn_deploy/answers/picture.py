"""The worst frame as a picture: the frame, the original's labels, the artefact's, and where they differ."""

from __future__ import annotations

import numpy as np

from fcn_deploy.answers.comparison import WorstFrame
from fcn_deploy.draw import Picture, colorize, strip
from fcn_deploy.spec import UNLABELLED, ModelSpec

_DIFFERENT = (230, 30, 30)


def draw_worst(worst: WorstFrame, spec: ModelSpec) -> Picture:
    """A strip of four pictures, uint8 ``[H, W, 3]``, R, G, B."""
    frame = worst.image[..., ::-1] if spec.color_order == "bgr" else worst.image
    maps = [colorize(labels, spec.palette) for labels in (worst.original, worst.found)]
    differs = (worst.original != worst.found) & (worst.original != UNLABELLED)
    gray = (frame.mean(2, keepdims=True) / 2 + 96).astype(np.uint8)
    difference = np.where(differs[..., None], np.array(_DIFFERENT, np.uint8), np.repeat(gray, 3, 2))
    record = worst.comparison
    caption = (
        f"{record.name}: {record.agreement:.4%} of labels agree   (frame, the original, this artefact, "
        "where they differ)"
    )
    return strip([(caption, [frame, *maps, difference])])
