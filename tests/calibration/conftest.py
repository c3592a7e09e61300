"""Exported models to quantise, and frames of the synthetic street to do it on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.calibration.recipe import Fp32Model, open_fp32
from fcn_deploy.data.images import write_labels
from fcn_deploy.data.street import SyntheticStreet

Narrow = Callable[..., Path]


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight small street scenes: ``images/`` and ``labels/``."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("street")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for frame in SyntheticStreet(frames=8, height=120, width=160, seed=5):
        name = f"{frame.index:03d}.png"
        Image.fromarray(np.ascontiguousarray(frame.image[..., ::-1])).save(folder / "images" / name)
        write_labels(folder / "labels" / name, frame.labels)
    return folder


@pytest.fixture(scope="session")
def narrow(exported: Callable[..., tuple[Path, object, object]]) -> Narrow:
    """``narrow(variant, ...)``: an fp32 ONNX file of a few channels with random weights."""

    def export(
        variant: str = "fcn8s-lite", learned: bool = False, color_order: str = "bgr", classes: int = 11
    ) -> Path:
        return exported(variant, learned, classes=classes, color_order=color_order)[0]

    return export


@pytest.fixture(scope="session")
def bundled(bundled_onnx: Path) -> Path:
    """The bundled, trained model as fp32 ONNX."""
    return bundled_onnx


@pytest.fixture
def fp32(narrow: Narrow) -> Fp32Model:
    return open_fp32(narrow())
