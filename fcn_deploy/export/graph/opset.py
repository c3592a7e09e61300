"""Opset and IR version: what graphs are written in, conversion to it, and which ONNX Runtime opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.errors import ExportError
from fcn_deploy.export.graph.files import SINGLE_FILE_LIMIT, weight_bytes
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
"""The newest that the ONNX Runtime of a JetPack 6 device opens (with IR version 10)."""
IR_VERSION = 10

OLDEST = 13
"""The oldest opset that is left as it is: the first in which Squeeze reads its axes as an input and Softmax
works along one axis."""

_OPSETS = {17: 12, 18: 14, 19: 15, 20: 17, 21: 18, 22: 21, 23: 23, 25: 24, 26: 25}
"""Newest opset -> the first ONNX Runtime (the number behind ``1.``) that implements it.

Source: docs/reference/compatibility.md of ONNX Runtime, and for 1.21 and later the onnx release in its
cmake/deps.txt (1.17, 1.18, 1.20 and 1.21 for 1.21, 1.23, 1.24 and 1.25)."""
_IR_VERSIONS = {8: 10, 9: 16, 10: 18, 11: 23, 13: 24}
"""Newest IR version -> the first ONNX Runtime that reads it; from the same sources."""


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a graph uses."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1))


def fit_opset(model: ModelProto) -> tuple[ModelProto, str | None]:
    """A graph in an opset from 13 to 20 and an IR version up to 10, as far as onnx can convert it.

    Args:
        model: a graph without local functions and with ONNX's own operators only.

    Returns:
        The graph, converted where it had to be; and where a newer opset had to stay, why, in words.

    Raises:
        ExportError: the opset is older than 13 and cannot be converted.
    """
    opset, reason = opset_of(model), None
    if not OLDEST <= opset <= OPSET:
        try:
            model = _converted(model)
        except Exception as exc:  # the converter raises many classes
            reason = " ".join(str(exc).split())[:200]
            if opset < OLDEST:
                raise ExportError(
                    f"opset {opset} cannot be converted to {OPSET} ({reason}); export the network again with "
                    f"opset {OLDEST} to {OPSET}"
                ) from exc
    onnx = require("onnx", extra="export")
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset_of(model))], True)
    model.ir_version = min(IR_VERSION, max(model.ir_version, needed))
    return model, reason


def _converted(model: ModelProto) -> ModelProto:
    onnx = require("onnx", extra="export")
    if weight_bytes(model) > SINGLE_FILE_LIMIT:
        raise ValueError("onnx converts graphs up to 2 GB only")
    converted: ModelProto = onnx.version_converter.convert_version(model, OPSET)
    converted.ir_version = max(converted.ir_version, 4)  # initializers need not be inputs
    onnx.checker.check_model(converted, full_check=True)
    return converted


def needed_onnxruntime(model: ModelProto) -> str:
    """The first ONNX Runtime that opens a graph, such as ``1.18``, or ``newer than 1.25``."""
    found = []
    for version, table in ((opset_of(model), _OPSETS), (model.ir_version, _IR_VERSIONS)):
        first = next((minor for newest, minor in sorted(table.items()) if version <= newest), None)
        if first is None:
            return f"newer than 1.{max(_OPSETS.values())}"
        found.append(first)
    return f"1.{max(found)}"
