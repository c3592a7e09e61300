"""Typical user code: the plain module in ONNX, transposed convolutions and all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from fcn_deploy.bench.reference import chain_reference, label_with_reference
from fcn_deploy.bench.subjects import TypicalSubject
from fcn_deploy.bench.typical import export_typical


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("variant", ["fcn8s-lite", pytest.param("fcn8s", marks=pytest.mark.slow)])
def test_its_labels_are_those_of_the_reference(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from fcn_deploy.model.checkpoints.describe import describe
    from fcn_deploy.model.checkpoints.random import random_model

    model, info = random_model(3, variant, width=2, fc_channels=4, seed=2)
    reference = chain_reference(tmp_path / "model.onnx", describe(model, info), [])
    out = tmp_path / "typical.onnx"
    made = export_typical(reference.job(), str(out), batch=2, height=96, width=64)

    operators = Counter(node.op_type for node in onnx.load(out).graph.node)
    assert operators["ConvTranspose"] == 3
    assert not {"Resize", "ArgMax", "Cast"} & set(operators)

    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    labels = tmp_path / "labels.npy"
    response = label_with_reference(reference.job(), str(tmp_path / "frames.npy"), str(labels))
    assert response == {"classes": 3}
    subject = TypicalSubject(str(out), reference.spec, threads=1, spinning=False)
    same = subject.call(frames)[1] == np.load(labels)
    if variant == "fcn8s":
        assert same.mean() > 0.999
    else:  # its own upscores repeat the border's cells, transposed convolutions run into zeros
        assert same[:, 32:-32, 24:-24].mean() > 0.95
    assert ("bilinear kernels" in made["description"]) == (variant == "fcn8s-lite")
