"""The calibration table: the ranges of each layer's input, kept in a file beside the model.

One pass over the frames gives the ranges of every method and both targets, so a table is worth keeping:
another method, target or budget needs no frames. It names its model by hash and is refused for any other.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.calibration.placement import TARGETS, Range, layer_inputs, target_of
from fcn_deploy.calibration.ranges import METHODS, Histogram
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.errors import CalibrationError, UsageError
from fcn_deploy.export.graph.files import identity
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import find_node
from fcn_deploy.files import input_file, write_text
from fcn_deploy.runtimes.base import check_frames
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

PERCENTILE = 99.99
"""Share of an activation's values, zeros included, that the percentile method keeps; in percent."""
_SCHEMA = 2
_TRIED_SWAPPED = 4
"""Frames that the model is also shown with B and R swapped."""
_SURER = 1.2
"""How much larger its lead must be on swapped frames to be told."""


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of the input of each convolution, by method and target."""

    model: str
    """Identity of the fp32 graph: SHA-256 without its description."""
    frames: int
    frames_sha256: str
    source: str
    """Bare name of the folder or video that the frames came from."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths seen."""
    percentile: float
    limits: Mapping[str, Mapping[str, float]]
    """Layer -> ``minmax``, ``percentile``, ``entropy-tensorrt``, ``entropy-cpu`` -> upper end of the
    range; the lower end is 0."""
    image: Range
    """Range of the first layer's input. Not measured: frames are 0 to 255, so it is known."""
    warnings: tuple[str, ...] = ()
    """Why ranges from these frames may be wrong, in sentences."""
    schema: int = _SCHEMA

    def ranges(self, method: str, target: str) -> dict[str, Range]:
        """The range of each convolution's input.

        Args:
            method: ``minmax``, ``percentile`` or ``entropy``.
            target: ``tensorrt`` or ``cpu``; entropy counts their levels.

        Raises:
            UsageError: there is no such method or target.
        """
        if method not in METHODS:
            raise UsageError(f"unknown calibration method {method!r}; choose one of {', '.join(METHODS)}")
        if target not in TARGETS:
            raise UsageError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
        key = f"entropy-{target}" if method == "entropy" else method
        measured = {layer: (0.0, limits[key]) for layer, limits in self.limits.items()}
        return {"conv1_1": self.image, **measured}

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, model: ModelProto) -> CalibrationTable:
        """Read a table for ``model``.

        Raises:
            UsageError: the file is missing.
            CalibrationError: it is no table, or belongs to another model.
        """
        found = input_file(Path(path), "calibration table")
        try:
            data = _current(json.loads(found.read_text()))
            data |= {"sizes": tuple(map(tuple, data["sizes"]))}
            data |= {key: tuple(data[key]) for key in ("image", "warnings")}
            table = cls(**data)
            complete = set(layer_inputs(model)) - {"conv1_1"} <= set(table.limits)
            _check(table)
        except (ValueError, TypeError, KeyError) as exc:
            raise CalibrationError(
                f"{found} is no calibration table ({type(exc).__name__}: {exc}); make one with: fcn-deploy "
                "quantize ... --calib FOLDER --save-table FILE"
            ) from exc
        if table.model != identity(model) or not complete:
            raise CalibrationError(
                f"{found} is stale: it was made for the model {table.model[:12]}... and this one is "
                f"{identity(model)[:12]}...; calibrate again with --calib FOLDER"
            )
        return table


def _current(data: dict[str, Any]) -> dict[str, Any]:
    """What a file holds, by today's keys: in version 0.1 (schema 1) the warnings were ``doubts``."""
    if data["schema"] != 1:
        return data
    return {**{k: v for k, v in data.items() if k != "doubts"}, "warnings": data["doubts"], "schema": _SCHEMA}


def _check(table: CalibrationTable) -> None:
    """Raises ValueError or KeyError where what was read cannot be ranges."""
    if table.schema != _SCHEMA:
        raise ValueError(f"schema {table.schema}, and {_SCHEMA} is known")
    for layer, limits in table.limits.items():
        for key in ("minmax", "percentile", *(f"entropy-{target}" for target in TARGETS)):
            if not 0 <= float(limits[key]) < float("inf"):
                raise ValueError(f"{key} of {layer} is {limits[key]}")


def calibrate(
    model: ModelProto,
    spec: ModelSpec,
    frames: CalibrationFrames,
    *,
    percentile: float = PERCENTILE,
    progress: Callable[[], None] | None = None,
) -> CalibrationTable:
    """Run every frame through the fp32 graph once and read off the ranges.

    Args:
        model: a deploy graph in fp32.
        spec: its description.
        frames: what to run; one frame is in memory at a time.
        percentile: for the percentile method, above 50 and at most 100.
        progress: called after each frame.

    Raises:
        UsageError: ``percentile`` is out of range.
        SourceError: a frame cannot be used, or none shows anything.
        CalibrationError: an activation is not what comes out of a ReLU.
    """
    if not 50 < percentile <= 100:
        raise UsageError(f"percentile must be above 50 and at most 100, not {percentile}")
    measured = {layer: tensor for layer, tensor in layer_inputs(model).items() if layer != "conv1_1"}
    tensors = list(dict.fromkeys(measured.values()))  # conv4_1 and score_pool3 read the same
    histograms = {tensor: Histogram(tensor) for tensor in tensors}
    logits = find_node(model, "ArgMax").input[0]
    margins: list[list[float]] = []
    with open_session(model, [*tensors, logits]) as session:
        for frame in frames:
            batch = check_frames(frame, spec)
            if len(margins) < _TRIED_SWAPPED:
                margins.append([_margin(session, logits, image) for image in (batch, batch[..., ::-1])])
            for tensor, value in zip(tensors, session.run(tensors, {"image": batch}), strict=True):
                histograms[tensor].add(value)
            if progress:
                progress()
    assert frames.seen is not None, "a complete pass leaves its survey"
    limits = {tensor: _limits(histogram, percentile) for tensor, histogram in histograms.items()}
    return CalibrationTable(
        model=identity(model),
        frames=frames.seen.frames,
        frames_sha256=frames.seen.sha256,
        source=frames.source.resolve().name,
        sizes=tuple(sorted(frames.seen.sizes)),
        percentile=percentile,
        limits={layer: limits[tensor] for layer, tensor in measured.items()},
        image=image_range(model),
        warnings=(*frames.seen.warnings(spec), *order_warning(margins)),
    )


def _margin(session: Any, logits: str, image: NDArray[np.uint8]) -> float:
    """By how much the winning class leads the second, on average over a frame's pixels."""
    scores = np.sort(session.run([logits], {"image": np.ascontiguousarray(image)})[0], axis=1)
    return float((scores[:, -1] - scores[:, -2]).mean())


def order_warning(margins: list[list[float]]) -> list[str]:
    """A warning where the model is more certain of the frames with B and R swapped.

    On swapped frames a trained network's lead falls by a third, even on grey streets, where a histogram
    of colours shows nothing.

    Args:
        margins: for each frame, the mean lead of the winning class as it is, and with B and R swapped.
    """
    as_given, swapped = np.mean(margins, axis=0)
    if swapped < as_given * _SURER:
        return []
    return [
        f"the model is more certain of these frames with B and R swapped (lead {swapped:.2f} against "
        f"{as_given:.2f}); check that they hold the colour order of its training"
    ]


def _limits(histogram: Histogram, percentile: float) -> dict[str, float]:
    limits = {m: histogram.limit(m, percent=percentile, levels=0) for m in ("minmax", "percentile")}
    for name in TARGETS:
        levels = target_of(name).levels
        limits[f"entropy-{name}"] = histogram.limit("entropy", percent=percentile, levels=levels)
    return limits


def image_range(model: ModelProto) -> Range:
    """Lowest and highest value that the first convolution can read: 0 and 255 minus the mean."""
    from fcn_deploy.lazy import require

    onnx = require("onnx", extra="export")
    mean = next((t for t in model.graph.initializer if t.name == "mean"), None)
    if mean is None or layer_inputs(model).get("conv1_1") is None:
        raise CalibrationError("this is no deploy graph: it has no mean or no conv1_1; export it again")
    values = np.asarray(onnx.numpy_helper.to_array(mean))
    return -float(values.max()), 255.0 - float(values.min())
