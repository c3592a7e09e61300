"""The precision that a graph declares; what was achieved is known on a device only.

In a strongly typed network the graph decides: a convolution between DequantizeLinear nodes is INT8, one
with half-precision operands is fp16. What kernels a device then runs is known only there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.errors import EngineError
from fcn_deploy.export.graph.surgery import PROTO_HALF, element_types
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

_LAYERS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Declared:
    """The precision that a graph declares."""

    precision: str
    """One of :data:`~fcn_deploy.spec.PRECISIONS`."""
    layers: Mapping[str, int]
    """Convolutions, transposed ones too, by type: ``int8``, ``fp16``, ``fp32``."""
    parameters: int
    """Numbers in its weights."""
    weight_bytes: int


def declared_precision(model: ModelProto) -> Declared:
    """The declared precision, from the two operands of each convolution.

    Args:
        model: a deploy graph; the contents of its weights are not needed.
    """
    kinds = element_types(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    layers: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in _LAYERS:
            continue
        sources = [made_by[name].op_type if name in made_by else "" for name in node.input[:2]]
        if sources == ["DequantizeLinear"] * 2:
            layers["int8"] += 1
        else:
            layers["fp16" if kinds.get(node.input[0]) == PROTO_HALF else "fp32"] += 1
    sizes = [(int(np.prod(t.dims)), t.data_type) for t in model.graph.initializer]
    return Declared(
        precision=_precision_of(layers),
        layers=dict(layers),
        parameters=sum(count for count, _ in sizes),
        weight_bytes=sum(count * item_bytes(kind) for count, kind in sizes),
    )


def item_bytes(kind: int) -> int:
    """Bytes of one number of an ONNX element type."""
    onnx = require("onnx", extra="export")
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _precision_of(layers: Mapping[str, int]) -> str:
    if layers.get("int8"):
        return "int8+fp16" if layers.get("fp16") else "int8"
    return "fp16" if layers.get("fp16") else "fp32"


def includes(precision: str, wanted: str) -> bool:
    """Whether ``precision``, as the spec has it, includes ``wanted``: ``int8+fp16`` includes both."""
    return set(wanted.split("+")) <= set(precision.split("+"))


def check_precision(found: Declared, wanted: str, source: str) -> None:
    """Refuse a graph whose engine would have another precision than was asked for.

    Raises:
        EngineError: ``found`` does not include ``wanted``.
    """
    if not includes(found.precision, wanted):
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(found.layers.items())) or "none"
        raise EngineError(
            f"{source} was to be built as {wanted} and its graph says {found.precision} (convolutions: "
            f"{counted}); TensorRT builds what the graph says, so convert it first: --fp16 or --int8 --calib "
            "FOLDER on an fp32 file"
        )
