"""Semantic segmentation, from a checkpoint to measured frames on an edge device.

Importing this package imports nothing heavy: each name below is looked up in its own module when
it is first used, so a device that only runs ONNX files never needs PyTorch.

>>> import fcn_deploy
>>> with fcn_deploy.load("model.onnx") as segmenter:  # doctest: +SKIP
...     labels = segmenter.infer(frame).labels
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fcn_deploy.errors import FcnDeployError
from fcn_deploy.spec import Architecture, ModelSpec, Reference

if TYPE_CHECKING:
    from fcn_deploy.answers.checking import check_answers
    from fcn_deploy.answers.result import AnswerCheck
    from fcn_deploy.bench.method import benchmark
    from fcn_deploy.bench.results import BenchmarkResult
    from fcn_deploy.building import build_engine
    from fcn_deploy.calibration.quantization import quantize
    from fcn_deploy.calibration.result import QuantizationResult
    from fcn_deploy.evaluation import Evaluation, evaluate
    from fcn_deploy.export.checkpoint import ExportResult, export_model
    from fcn_deploy.export.tensorrt.result import EngineResult
    from fcn_deploy.export.wrap import wrap_model
    from fcn_deploy.runtimes.base import Segmentation
    from fcn_deploy.runtimes.registry import load
    from fcn_deploy.runtimes.segmenter import Segmenter

__version__ = "0.2.0"

__all__ = [
    "AnswerCheck",
    "Architecture",
    "BenchmarkResult",
    "EngineResult",
    "Evaluation",
    "ExportResult",
    "FcnDeployError",
    "ModelSpec",
    "QuantizationResult",
    "Reference",
    "Segmentation",
    "Segmenter",
    "__version__",
    "benchmark",
    "build_engine",
    "check_answers",
    "evaluate",
    "export_model",
    "load",
    "quantize",
    "wrap_model",
]

_LAZY = {
    "AnswerCheck": "fcn_deploy.answers.result",
    "BenchmarkResult": "fcn_deploy.bench.results",
    "EngineResult": "fcn_deploy.export.tensorrt.result",
    "Evaluation": "fcn_deploy.evaluation",
    "ExportResult": "fcn_deploy.export.checkpoint",
    "QuantizationResult": "fcn_deploy.calibration.result",
    "Segmentation": "fcn_deploy.runtimes.base",
    "Segmenter": "fcn_deploy.runtimes.segmenter",
    "benchmark": "fcn_deploy.bench.method",
    "build_engine": "fcn_deploy.building",
    "check_answers": "fcn_deploy.answers.checking",
    "evaluate": "fcn_deploy.evaluation",
    "export_model": "fcn_deploy.export.checkpoint",
    "load": "fcn_deploy.runtimes.registry",
    "quantize": "fcn_deploy.calibration.quantization",
    "wrap_model": "fcn_deploy.export.wrap",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
