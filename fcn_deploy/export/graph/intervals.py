"""What the prepared frame can hold, by interval arithmetic: frames are bytes, so it need not be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import INPUT
from fcn_deploy.export.graph.surgery import attributes, constants

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Interval = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Lowest and highest values of a tensor; arrays that broadcast against it, such as one number a channel."""

_SAME = ("Cast", "Identity", "AveragePool", "MaxPool")
"""Operators whose results lie where their input lies, channel by channel."""
_ANYWHERE = ("Slice", "Gather", "Reshape", "Squeeze", "Unsqueeze", "Split", "Resize")
"""Operators that move numbers across channels: one interval for all of them is safe."""
_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def prepared_ranges(model: ModelProto) -> dict[str, tuple[float, float]]:
    """Lowest and highest value that each tensor of the preparation can hold, whatever the frame shows.

    Tensors behind an operator that is not known here are missing.
    """
    known = constants(model)
    found: dict[str, Interval] = {INPUT: (np.zeros((1, 1, 1, 1)), np.full((1, 1, 1, 1), 255.0))}
    for node in model.graph.node:
        interval = _interval(node, found, known)
        if interval is not None:
            found[node.output[0]] = interval
    return {name: (float(low.min()), float(high.max())) for name, (low, high) in found.items()}


def _interval(node: NodeProto, found: dict[str, Interval], known: dict[str, NDArray[Any]]) -> Interval | None:
    operands = [found.get(name) or _exact(known.get(name)) for name in node.input]
    if not operands or operands[0] is None or not any(name in found for name in node.input):
        return None
    low, high = operands[0]
    if node.op_type in _SAME:
        return low, high
    if node.op_type in _ANYWHERE:
        return _everywhere(low, high)
    if node.op_type == "Transpose" and low.ndim == len(order := attributes(node).get("perm", ())):
        return low.transpose(order), high.transpose(order)
    if node.op_type == "Pad":
        return _padded(node, operands)
    if node.op_type == "Concat" and None not in operands:
        lows, highs = zip(*(operand for operand in operands if operand is not None), strict=True)
        return _everywhere(np.array([x.min() for x in lows]), np.array([x.max() for x in highs]))
    if node.op_type in _ARITHMETIC and operands[1] is not None:
        return _combined(node.op_type, operands[0], operands[1])
    return None


def _exact(value: NDArray[Any] | None) -> Interval | None:
    if value is None or value.size == 0 or not np.issubdtype(value.dtype, np.number):
        return None
    return value.astype(np.float64), value.astype(np.float64)


def _everywhere(low: NDArray[np.float64], high: NDArray[np.float64]) -> Interval:
    return np.full((1, 1, 1, 1), low.min()), np.full((1, 1, 1, 1), high.max())


def _padded(node: NodeProto, operands: list[Interval | None]) -> Interval | None:
    assert operands[0] is not None
    low, high = operands[0]
    if attributes(node).get("mode", b"constant") != b"constant":
        return low, high
    filled = 0.0
    if len(node.input) > 2 and node.input[2]:
        if operands[2] is None:
            return None
        filled = float(operands[2][0].min())
    return np.minimum(low, filled), np.maximum(high, filled)


def _combined(kind: str, one: Interval, other: Interval) -> Interval | None:
    """An extreme of a sum, difference, product or quotient lies at the ends of both intervals."""
    if kind == "Div" and ((other[0] <= 0) & (other[1] >= 0)).any():
        return None
    ends = [_ARITHMETIC[kind](a, b) for a in one for b in other]
    return np.minimum.reduce(ends), np.maximum.reduce(ends)
