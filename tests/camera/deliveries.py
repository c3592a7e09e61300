"""Deliveries made by hand, for tests of sinks."""

from __future__ import annotations

import numpy as np

from fcn_deploy.camera import CameraFrame, Delivery
from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.runtimes.base import Segmentation
from fcn_deploy.spec import Architecture, ModelSpec


def spec(order: str = "bgr") -> ModelSpec:
    return ModelSpec(
        classes=CAMVID_CLASSES,
        palette=CAMVID_PALETTE,
        architecture=Architecture("fcn8s-lite"),
        color_order=order,
        note="a test",
    )


def delivery(
    index: int = 0,
    *,
    name: str | None = None,
    camera: int = 0,
    size: tuple[int, int] = (24, 32),
    label: int = 3,
    order: str = "bgr",
    captured: float = 0.0,
    confidence: bool = False,
) -> Delivery:
    """A black frame, all of one label."""
    frame = CameraFrame(np.zeros((*size, 3), np.uint8), name or f"{index:06d}", index, captured, camera)
    certain = np.full((1, *size), 0.9, np.float32) if confidence else None
    result = Segmentation(np.full((1, *size), label, np.uint8), spec(order), confidence=certain)
    return Delivery(frame, result, 0.0)
