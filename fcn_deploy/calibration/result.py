"""What ``quantize`` returns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.calibration.budget import BudgetReport
from fcn_deploy.calibration.sensitivity import Sensitivity
from fcn_deploy.describe import describe, file_facts, file_row
from fcn_deploy.results import Result, Rows
from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class LabelAgreement:
    """How many labels of the INT8 graph equal those of the fp32 graph, in ONNX Runtime on the CPU."""

    frames: int
    """Calibration frames compared."""
    label_agreement: float
    """Mean share of equal labels, from 0 to 1."""
    lowest: float
    """Share of equal labels of the worst frame."""


@dataclass(frozen=True, repr=False)
class QuantizationResult(Result):
    """An INT8 artefact that was written, and what was found on the way."""

    path: Path
    """The INT8 artefact."""
    spec: ModelSpec
    """Its description; ``evidence["quantization"]`` says how it was made."""
    seconds: float
    """From the call until the file was written."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Of the file."""
    warnings: tuple[str, ...]
    """Reasons to doubt the calibration frames or the result, in sentences."""
    agreement: LabelAgreement | None
    """With fp32; None where only a calibration table was given, without frames to compare on."""
    sensitivity: Sensitivity | None
    """What INT8 costs in each layer alone; None where that was neither asked for nor needed."""
    budget: BudgetReport | None
    """How a budget of mean IU was kept; None without one."""

    def summary(self) -> Rows:
        return [
            file_row(self),
            *describe(self.spec),
            *(("warning", sentence) for sentence in self.warnings),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As ``fcn-deploy quantize --json`` prints it: only what JSON knows."""
        return {
            **file_facts(self),
            "spec": json.loads(self.spec.to_json()),
        }
