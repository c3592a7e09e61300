"""The bundled, trained weights in a deploy graph, and originals that answer with them in plain PyTorch."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parent))  # the helpers of this folder are importable

from originals import CAFFE_MEAN, Original, prepared  # noqa: E402

from fcn_deploy.answers.file import OriginalAnswers  # noqa: E402
from fcn_deploy.data.street import SyntheticStreet  # noqa: E402
from fcn_deploy.export.graph.files import read_model  # noqa: E402
from fcn_deploy.model.checkpoints import load_checkpoint  # noqa: E402

SNIPPET = Path(__file__).parents[2] / "docs" / "snippets" / "write_answers.py"

WriteAnswers = Callable[..., OriginalAnswers]


@pytest.fixture(scope="session")
def bundled_file(bundled_onnx: Path) -> Path:
    """The bundled model as fp32 ONNX."""
    return bundled_onnx


@pytest.fixture(scope="session")
def bundled(bundled_file: Path):
    """Its graph and description."""
    return read_model(bundled_file)


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
    """The bundled weights by name."""
    return load_checkpoint("bundled")[0].state_dict()


@pytest.fixture(scope="session")
def street() -> list[np.ndarray]:
    """Two small street scenes of odd sizes, B, G, R."""
    return [
        next(iter(SyntheticStreet(frames=1, height=height, width=width, seed=seed))).image
        for seed, (height, width) in enumerate(((71, 93), (65, 103)))
    ]


@pytest.fixture
def write_answers(weights: dict[str, torch.Tensor], street: list[np.ndarray], tmp_path: Path) -> WriteAnswers:
    """``write_answers(preparation={...}, classes=[...], ...)``: what an original answers for the street,
    written by the code that the docs show."""
    written = runpy.run_path(str(SNIPPET))["write_answers"]

    def write(
        *,
        preparation: dict[str, object] | None = None,
        classes: Sequence[int] | None = None,
        labels_only: bool = False,
        frames: list[np.ndarray] = street,
        **layers: object,
    ) -> OriginalAnswers:
        network = Original({**weights, **layers.pop("weights", {})}, classes=classes, **layers)
        path = tmp_path / "answers.npz"
        written(
            path, network, lambda frame: prepared(frame, **(preparation or {})), frames, color_order="bgr"
        )
        if labels_only:
            arrays = dict(np.load(path))
            answers = {name: value for name, value in arrays.items() if not name.startswith("logits")}
            for number in range(len(frames)):
                answers[f"labels_{number}"] = arrays[f"logits_{number}"].argmax(1)
            np.savez(path, **answers)
        return OriginalAnswers(path)

    return write


__all__ = ["CAFFE_MEAN"]
