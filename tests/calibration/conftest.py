"""Exported models to quantise, and frames of the synthetic street to do it on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from fcn_deploy.calibration.recipe import Subject, open_subject
from fcn_deploy.datasets import write_labels
from fcn_deploy.export.graph import write_model
from fcn_deploy.export.onnx import export_onnx, trace
from fcn_deploy.model.deploy import DeployModel
from fcn_deploy.model.weights import describe, load_checkpoint, random_model
from fcn_deploy.street import SyntheticStreet

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
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Narrow:
    """``narrow(variant, ...)``: an fp32 ONNX file of a few channels with random weights."""
    folder = tmp_path_factory.mktemp("narrow")

    @cache
    def export(variant: str = "fcn8s-lite", learned: bool = False, color_order: str = "bgr") -> Path:
        model, info = random_model(11, variant, width=4, fc_channels=8, learned_upscore=learned)
        path = folder / f"{variant}-{learned}-{color_order}.onnx"
        spec = describe(model, info, color_order=color_order)
        # Traced only: the parity of an export has tests of its own, and takes longer than all else here.
        write_model(trace(DeployModel(model, spec).eval()), spec.with_evidence("parity", {"sizes": []}), path)
        return path

    return export


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled, trained model as fp32 ONNX."""
    model, info = load_checkpoint("bundled")
    path = tmp_path_factory.mktemp("bundled") / "model.onnx"
    export_onnx(model, describe(model, info), path)
    return path


@pytest.fixture
def subject(narrow: Narrow) -> Subject:
    return open_subject(narrow())
