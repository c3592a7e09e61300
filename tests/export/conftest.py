from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.model.fcn8s import FCN8s
from fcn_deploy.model.weights import describe, random_model
from fcn_deploy.spec import ModelSpec

Exported = tuple[Path, FCN8s, ModelSpec]
Exporter = Callable[..., Exported]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """``exported(variant, learned=False, outputs=...)``: a narrow model and its fp32 ONNX file."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(
        variant: str = "fcn8s-lite", learned: bool = False, outputs: tuple[str, ...] = ("labels",)
    ) -> Exported:
        model, info = random_model(5, variant, width=4, fc_channels=8, learned_upscore=learned)
        spec = describe(model, info, outputs=outputs)
        path = folder / f"{variant}-{learned}-{len(outputs)}.onnx"
        return path, model, export_onnx(model, spec, path)

    return export
