"""The calibration table: the ranges of the tensors that may become integers, kept in a file beside the model.

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

from fcn_deploy.calibration.pairs import layer_inputs, measured_tensors
from fcn_deploy.calibration.placement import TARGETS, target_of
from fcn_deploy.calibration.ranges import METHODS, Histogram, Range
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.errors import CalibrationError, UsageError
from fcn_deploy.export.graph.files import identity
from fcn_deploy.export.graph.intervals import prepared_ranges
from fcn_deploy.export.graph.roles import first_convolutions, logits_of
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.watch import Watch
from fcn_deploy.files import input_file, write_text
from fcn_deploy.runtimes.base import check_frames
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

PERCENTILE = 99.99
"""Share of an activation's values, zeros included, that the percentile method keeps; in percent."""
_SCHEMA = 3
_TRIED_SWAPPED = 4
"""Frames that the model is also shown with B and R swapped."""
_SURER = 1.2
"""How much larger its lead must be on swapped frames to be told."""


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of tensors, by method and target."""

    model: str
    """Identity of the fp32 graph: SHA-256 without its description."""
    frames: int
    frames_sha256: str
    source: str
    """Bare name of the folder or video that the frames came from."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths seen."""
    percentile: float
    measured: Mapping[str, Mapping[str, Range]]
    """Tensor -> ``minmax``, ``percentile``, ``entropy-tensorrt``, ``entropy-cpu`` -> its range."""
    known: Mapping[str, Range]
    """Tensor -> its range, where that of frames, 0 to 255, says it: what first convolutions read."""
    warnings: tuple[str, ...] = ()
    """Why ranges from these frames may be wrong, in sentences."""
    schema: int = _SCHEMA

    def ranges(self, method: str, target: str) -> dict[str, Range]:
        """The range of each tensor.

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
        return {**self.known, **{tensor: limits[key] for tensor, limits in self.measured.items()}}

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
            data = _current(json.loads(found.read_text()), model)
            data |= {"sizes": tuple(map(tuple, data["sizes"])), "warnings": tuple(data["warnings"])}
            data |= {"known": {tensor: _range(limits) for tensor, limits in data["known"].items()}}
            data["measured"] = {
                tensor: {key: _range(limits[key]) for key in _keys()}
                for tensor, limits in data["measured"].items()
            }
            table = cls(**data)
        except (ValueError, TypeError, KeyError) as exc:
            raise CalibrationError(
                f"{found} is no calibration table ({type(exc).__name__}: {exc}); make one with: fcn-deploy "
                "quantize ... --calib FOLDER --save-table FILE"
            ) from exc
        if table.model != identity(model) or not {*table.known, *table.measured} >= set(
            measured_tensors(model)
        ):
            raise CalibrationError(
                f"{found} is stale: it was made for the model {table.model[:12]}... and this one is "
                f"{identity(model)[:12]}...; calibrate again with --calib FOLDER"
            )
        return table


def _keys() -> tuple[str, ...]:
    return ("minmax", "percentile", *(f"entropy-{target}" for target in TARGETS))


def _current(data: dict[str, Any], model: ModelProto) -> dict[str, Any]:
    """What a file holds, by today's keys.

    In schema 2 a table held the upper ends of layers' inputs, all of which came out of a ReLU; in schema 1
    (version 0.1) the warnings were called ``doubts`` too.
    """
    if data["schema"] == _SCHEMA:
        return data
    if data["schema"] not in (1, 2):
        raise ValueError(f"schema {data['schema']}, and {_SCHEMA} is known")
    reads = layer_inputs(model)
    kept = {k: v for k, v in data.items() if k not in ("limits", "image", "doubts", "schema")}
    return {
        "warnings": data.get("doubts"),
        **kept,
        "schema": _SCHEMA,
        "known": {reads[layer]: data["image"] for layer in first_convolutions(model)},
        "measured": {
            reads[layer]: {key: [0.0, limit] for key, limit in limits.items()}
            for layer, limits in data["limits"].items()
        },
    }


def _range(limits: Any) -> Range:
    """Raises ValueError where what was read is no range around 0."""
    low, high = map(float, limits)
    if not -float("inf") < low <= 0 <= high < float("inf"):
        raise ValueError(f"a range is {limits}, and one around 0 is expected")
    return low, high


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
        CalibrationError: an activation is NaN or infinite.
    """
    if not 50 < percentile <= 100:
        raise UsageError(f"percentile must be above 50 and at most 100, not {percentile}")
    known = known_ranges(model)
    tensors = [tensor for tensor in measured_tensors(model) if tensor not in known]
    histograms = {tensor: Histogram(tensor) for tensor in tensors}
    logits = logits_of(model)
    margins: list[list[float]] = []
    with open_session(model, [*tensors, *([logits] if logits else [])]) as session:
        watch = Watch(session, tensors, spec)
        for frame in frames:
            batch = check_frames(frame, spec)
            if logits and len(margins) < _TRIED_SWAPPED:
                margins.append([_margin(session, logits, image) for image in (batch, batch[..., ::-1])])
            for tensor, value in watch.values(batch):
                histograms[tensor].add(value)
            if progress:
                progress()
    assert frames.seen is not None, "a complete pass leaves its survey"
    return CalibrationTable(
        model=identity(model),
        frames=frames.seen.frames,
        frames_sha256=frames.seen.sha256,
        source=frames.source.resolve().name,
        sizes=tuple(sorted(frames.seen.sizes)),
        percentile=percentile,
        measured={tensor: _limits(histogram, percentile) for tensor, histogram in histograms.items()},
        known=known,
        warnings=(*frames.seen.warnings(spec), *order_warning(margins)),
    )


def known_ranges(model: ModelProto) -> dict[str, Range]:
    """The tensors that first convolutions read, where frames of 0 to 255 say what those hold; 0 included."""
    prepared, reads = prepared_ranges(model), layer_inputs(model)
    inputs = [reads[layer] for layer in first_convolutions(model)]
    return {
        name: (min(prepared[name][0], 0.0), max(prepared[name][1], 0.0))
        for name in inputs
        if name in prepared
    }


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
    if not margins:
        return []
    as_given, swapped = np.mean(margins, axis=0)
    if swapped < as_given * _SURER:
        return []
    return [
        f"the model is more certain of these frames with B and R swapped (lead {swapped:.2f} against "
        f"{as_given:.2f}); check that they hold the colour order of its training"
    ]


def _limits(histogram: Histogram, percentile: float) -> dict[str, Range]:
    def limits(method: str, target: str) -> Range:
        chosen = target_of(target)
        return histogram.limits(
            method, percent=percentile, levels=chosen.levels, symmetric=not chosen.unsigned
        )

    found = {method: limits(method, TARGETS[0]) for method in ("minmax", "percentile")}
    return found | {f"entropy-{target}": limits("entropy", target) for target in TARGETS}
