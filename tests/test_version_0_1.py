"""Artefacts that version 0.1 wrote are opened by this one. They are frozen in tests/fixtures/v0_1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.registry import load
from fcn_deploy.spec import SCHEMA_VERSION

FOLDER = Path(__file__).parent / "fixtures" / "v0_1"
FILES = {
    "v01.onnx": "fp32",
    "v01.fp16.onnx": "fp16",
    "v01.int8-cpu.onnx": "int8",
    "v01.int8-tensorrt.onnx": "int8+fp16",
    "v01.safetensors": "fp32",
}


@pytest.mark.parametrize("name", FILES)
def test_its_description_is_read(name: str) -> None:
    spec = read_spec(FOLDER / name)
    assert spec.architecture.name == ("fcn8s-same" if "fp16" in name else "fcn8s-lite")
    assert spec.architecture.options == {"width": 2, "fc_channels": 4, "learned_upscore": False}
    assert (spec.precision, spec.num_classes, spec.schema_version) == (FILES[name], 3, SCHEMA_VERSION)
    assert spec.provenance[-1]["kind"] == "random"


@pytest.mark.parametrize("name", FILES)
def test_it_labels_frames(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3), dtype=np.uint8)
    with load(FOLDER / name, device="cpu", threads=1) as segmenter:
        labels = segmenter.infer(frames).labels
    assert labels.shape == (2, 33, 47)
    assert labels.max() < 3


def test_its_graph_still_agrees_with_its_weights() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    found = []
    for name in ("v01.onnx", "v01.safetensors"):
        with load(FOLDER / name, device="cpu", threads=1) as segmenter:
            found.append(segmenter.infer(frames).labels)
    assert (found[0] == found[1]).mean() > 0.999
