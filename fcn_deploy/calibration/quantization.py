"""fp32 artefact -> INT8 artefact, for TensorRT or for CPUs, with what it costs written into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.calibration.budget import Report, within_budget
from fcn_deploy.calibration.placement import layer_inputs
from fcn_deploy.calibration.recipe import Recipe, Subject, make, open_subject, quantised_layers
from fcn_deploy.calibration.sensitivity import Sensitivity, measure
from fcn_deploy.calibration.table import PERCENTILE, CalibrationTable, calibrate
from fcn_deploy.data.calibration import MAX_FRAMES, CalibrationFrames
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import UsageError
from fcn_deploy.export.graph.files import identity, write_model
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.metrics import label_agreement
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto


_CHECK_FRAMES = 8
"""Frames on which a quantised graph is held against the fp32 one."""


@dataclass(frozen=True)
class CalibrationSource:
    """Where ranges come from: frames, or a table that was saved."""

    calib: str | Path | None = None
    """A folder of images or a video; None where ``table`` is given."""
    table: str | Path | None = None
    """A calibration table saved earlier; None where ``calib`` is given."""
    max_frames: int = MAX_FRAMES
    """At most so many frames, spread evenly over the source."""
    size: tuple[int, int] | None = None
    """Height and width to resize calibration frames to; None keeps theirs."""
    percentile: float = PERCENTILE
    """For the percentile method, in percent."""
    save_table: str | Path | None = None
    """Where to keep the table."""

    def __post_init__(self) -> None:
        if (self.calib is None) == (self.table is None):
            raise UsageError("give calibration frames or a calibration table, one of the two")
        if self.max_frames < 1:
            raise UsageError(f"max_frames must be at least 1, not {self.max_frames}")


@dataclass(frozen=True)
class Budget:
    """What may be lost, and on what it is measured."""

    data: str | Path | None = None
    """A labelled folder. Alone, it makes the sensitivity report count mean IU."""
    max_drop: float | None = None
    """Points of mean IU (of 100) that may be lost; None sets no budget."""
    sensitivity: str | Path | None = None
    """The sensitivity report: read where it exists, else measured and written there."""

    def __post_init__(self) -> None:
        if self.max_drop is None:
            return
        if self.data is None:
            raise UsageError("a budget is measured on labelled frames; give a labelled folder with it")
        if not self.max_drop >= 0:  # NaN is no budget either
            raise UsageError(f"max_drop is a loss in points and must be at least 0, not {self.max_drop}")


def quantize(
    model: str | Path,
    output: str | Path,
    *,
    calib: str | Path | None = None,
    target: str = "tensorrt",
    method: str = "entropy",
    rest: str | None = None,
    assume_vnni: bool = False,
    float_layers: Iterable[str] = (),
    max_drop: float | None = None,
    data: str | Path | None = None,
    sensitivity: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    **source: Any,
) -> ModelSpec:
    """Write a Q/DQ graph of an exported fp32 model.

    Args:
        model: an fp32 ``.onnx`` that fcn-deploy exported.
        output: where the Q/DQ graph goes.
        calib: frames that the camera shows: a folder of images or a video.
        target: ``tensorrt`` or ``cpu``; one file does not serve both well.
        method: ``minmax``, ``percentile`` or ``entropy``.
        rest: ``fp16`` or ``fp32`` for what is not INT8; None takes fp16 for TensorRT, fp32 for CPUs.
        assume_vnni: give a CPU's weights 8 bits instead of 7; CPUs without VNNI refuse the file.
        float_layers: convolutions to leave in higher precision beside the score layers.
        max_drop: points of mean IU (of 100) that may be lost on ``data``; layers are left in higher
            precision until it holds.
        data: a labelled folder for ``max_drop``.
        sensitivity: a sensitivity report: read where the file exists, else measured and written.
        progress: called with a few words as the work goes on.
        source: the other fields of :class:`CalibrationSource`: ``table``, ``max_frames``, ``size``,
            ``percentile``, ``save_table``.

    Returns:
        The description of the new artefact; ``evidence["quantization"]`` says what was done.

    Raises:
        UsageError, SourceError, ModelError: the call, the frames or the model cannot be used.
        CalibrationError: the frames give no ranges, a table or report is stale, or the budget cannot be
            kept; nothing is written then.
    """
    recipe = Recipe(target, method, rest, assume_vnni, tuple(float_layers))
    return run(
        open_subject(model),
        Path(output),
        recipe,
        CalibrationSource(calib=calib, **source),
        Budget(data, max_drop, sensitivity),
        progress or (lambda _: None),
    )


def run(
    subject: Subject,
    output: Path,
    recipe: Recipe,
    source: CalibrationSource,
    budget: Budget,
    step: Callable[[str], None],
) -> ModelSpec:
    """:func:`quantize` with its arguments sorted."""
    quantised_layers(subject, recipe)  # a wrong name is said before the frames are read
    frames = (
        None
        if source.calib is None
        else CalibrationFrames(Path(source.calib), subject.spec, source.max_frames, source.size)
    )
    data = None if budget.data is None else LabelledFolder(budget.data, subject.spec.color_order)
    table = _table(subject, source, frames, step)
    if source.save_table is not None:
        table.save(source.save_table)

    def ranking() -> Sensitivity:
        return _sensitivity(subject, table, recipe, budget, data or frames, step)

    if budget.sensitivity is not None:
        ranking()  # named, so it is read or measured whether the budget needs it or not
    report = None
    if budget.max_drop is not None and data is not None:
        recipe, report = within_budget(
            subject, table, recipe, data, budget.max_drop, ranking=ranking, progress=step
        )
    step("placing Q/DQ")
    graph = make(subject, table, recipe)
    step("comparing with fp32")
    check = None if frames is None else compare_labels(subject.model, graph, frames)
    spec = _describe(subject, table, recipe, check, report)
    write_model(graph, spec, output)
    return spec


def _table(
    subject: Subject, source: CalibrationSource, frames: CalibrationFrames | None, step: Callable[[str], None]
) -> CalibrationTable:
    if frames is None:
        table = CalibrationTable.load(Path(str(source.table)), subject.model)
        if source.percentile not in (PERCENTILE, table.percentile):
            raise UsageError(
                f"{source.table} was made with percentile {table.percentile:g}, not {source.percentile:g}; "
                "calibrate again with --calib FOLDER"
            )
        return table
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        step(f"calibrating: {done} frames")

    return calibrate(subject.model, subject.spec, frames, percentile=source.percentile, progress=advance)


def _sensitivity(
    subject: Subject,
    table: CalibrationTable,
    recipe: Recipe,
    budget: Budget,
    frames: CalibrationFrames | LabelledFolder | None,
    step: Callable[[str], None],
) -> Sensitivity:
    """The report that was saved, or a new one."""
    if budget.sensitivity is not None and Path(budget.sensitivity).exists():
        return Sensitivity.load(budget.sensitivity, subject, recipe)
    if frames is None:
        raise UsageError(
            "sensitivity is measured on frames; give calibration frames or labelled ones beside the table"
        )
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        step(f"sensitivity: {done} layers")

    found = measure(subject, table, recipe, frames, progress=advance)
    if budget.sensitivity is not None:
        found.save(budget.sensitivity)
    return found


def compare_labels(fp32: ModelProto, quantised: ModelProto, frames: CalibrationFrames) -> dict[str, Any]:
    """Label agreement of two graphs in ONNX Runtime on the first calibration frames.

    Returns:
        ``{"frames", "label_agreement", "lowest"}``, fractions from 0 to 1.
    """
    shares = []
    with open_session(fp32) as reference, open_session(quantised) as session:
        for index, batch in enumerate(frames):
            if index == _CHECK_FRAMES:
                break
            answers = [s.run(["labels"], {"image": batch})[0] for s in (reference, session)]
            shares.append(label_agreement(*answers))
    return {"frames": len(shares), "label_agreement": float(np.mean(shares)), "lowest": float(min(shares))}


def _describe(
    subject: Subject,
    table: CalibrationTable,
    recipe: Recipe,
    check: dict[str, Any] | None,
    report: Report | None,
) -> ModelSpec:
    """The new artefact's description: precision, parent, and the evidence."""
    layers = quantised_layers(subject, recipe)
    spec = subject.spec.replace(
        precision=recipe.precision,
        # What was verified about the parent is the parent's.
        evidence={("parent_parity" if k == "parity" else k): v for k, v in subject.spec.evidence.items()},
    ).with_parent(kind="onnx", name=subject.path.name, sha256=identity(subject.model))
    evidence = {
        "target": recipe.target,
        "method": recipe.method,
        "frames": table.frames,
        "frames_sha256": table.frames_sha256,
        "source": table.source,
        "sizes": [list(size) for size in table.sizes],
        "int8_layers": layers,
        "float_layers": [name for name in layer_inputs(subject.model) if name not in layers],
        "reduce_range": recipe.target == "cpu" and not recipe.assume_vnni,
        "assume_vnni": recipe.assume_vnni,
        "doubts": list(table.doubts),
        "agreement_with_fp32": check or "not checked: quantised from a table, without frames",
    }
    if recipe.method == "percentile":
        evidence["percentile"] = table.percentile
    if report is not None:
        evidence["budget"] = report.to_dict()
    return spec.with_evidence("quantization", evidence)
