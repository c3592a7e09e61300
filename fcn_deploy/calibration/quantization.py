"""fp32 artefact -> INT8 artefact, for TensorRT or for CPUs, with what it costs written into it."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.answers.checking import require_answers
from fcn_deploy.answers.file import OriginalAnswers
from fcn_deploy.arguments import as_integer, as_names, as_size
from fcn_deploy.calibration.budget import BudgetReport, within_budget
from fcn_deploy.calibration.pairs import layer_inputs
from fcn_deploy.calibration.recipe import Fp32Model, Recipe, open_fp32, quantised_layers, quantized_graph
from fcn_deploy.calibration.result import LabelAgreement, QuantizationResult
from fcn_deploy.calibration.sensitivity import Sensitivity, measure
from fcn_deploy.calibration.table import PERCENTILE, CalibrationTable, calibrate
from fcn_deploy.data.calibration import MAX_FRAMES, CalibrationFrames
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import UsageError
from fcn_deploy.export.graph.files import write_model
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.files import check_output, sha256_of
from fcn_deploy.metrics import label_agreement
from fcn_deploy.runtimes.artefact import identity
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

_CHECK_FRAMES = 8
"""Frames on which a quantised graph is compared with the fp32 one."""
_LOW_AGREEMENT = 0.97
"""Share of labels equal to fp32's below which a warning is due."""


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
    table: str | Path | None = None,
    target: str = "tensorrt",
    method: str = "entropy",
    percentile: float = PERCENTILE,
    max_frames: int = MAX_FRAMES,
    size: tuple[int, int] | None = None,
    float_precision: str | None = None,
    assume_vnni: bool = False,
    float_layers: str | Iterable[str] = (),
    max_drop: float | None = None,
    data: str | Path | None = None,
    sensitivity: str | Path | None = None,
    save_table: str | Path | None = None,
    check_against: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> QuantizationResult:
    """Write an INT8 graph (with QuantizeLinear and DequantizeLinear) of an exported fp32 model.

    Args:
        model: an fp32 ``.onnx`` that fcn-deploy exported.
        output: where the INT8 ``.onnx`` goes.
        calib: frames that the camera shows: a folder of images or a video. Give it or ``table``.
        table: a calibration table that ``save_table`` wrote for the same model.
        target: ``tensorrt`` or ``cpu``; one file does not serve both well.
        method: ``minmax``, ``percentile`` or ``entropy``.
        percentile: percent of an activation's values that the percentile method keeps; above 50 and
            at most 100, by default 99.99.
        max_frames: frames to take at most, spread evenly over ``calib``; by default 128.
        size: height and width to which calibration frames are resized; None keeps their own.
        float_precision: ``fp16`` or ``fp32`` for what is not INT8; None takes fp16 for TensorRT and
            fp32 for CPUs.
        assume_vnni: give a CPU's weights 8 bits instead of 7; CPUs without VNNI refuse the file.
        float_layers: convolutions to leave in higher precision beside the score layers.
        max_drop: points of mean IU (of 100) that may be lost on ``data``; layers are left in higher
            precision until it holds.
        data: a labelled folder for ``max_drop``; without ``max_drop``, the sensitivity report counts
            mean IU on it.
        sensitivity: a sensitivity report (JSON): read where the file exists, else measured and written.
        save_table: where to keep the calibration table (JSON).
        check_against: answers of the original network (``.npz``), as :func:`fcn_deploy.check_answers` takes
            them; the fp32 model must pass before it is calibrated, and the INT8 graph before it is written.
        progress: called with a few words as the work goes on.

    Returns:
        What was written, with warnings, the agreement with fp32, and what sensitivity and budget found.

    Raises:
        UsageError, SourceError, ModelError: the call, the frames or the model cannot be used.
        CalibrationError: the frames give no ranges, a table or report is stale, or the budget cannot be
            kept; no artefact is written then.
        ParityError: a graph does not answer as ``check_against`` says; no artefact is written then.
    """
    begun = time.monotonic()
    written = check_output(output, (".onnx",))
    if written.resolve() == Path(model).resolve():
        raise UsageError(f"{output} is the model itself; name another file to write")
    max_frames = as_integer("max_frames", max_frames, 1)
    size = None if size is None else as_size("size", size)
    recipe = Recipe(target, method, float_precision, assume_vnni, as_names(float_layers))
    source = CalibrationSource(calib, table, max_frames, size, percentile, save_table)
    budget = Budget(data, max_drop, sensitivity)
    originals = None if check_against is None else OriginalAnswers(check_against)
    run = _Run(open_fp32(model), recipe, source, budget, originals, progress or (lambda _: None))
    return run.write(written, begun)


class _Run:
    """One call of :func:`quantize`: what its steps share."""

    def __init__(
        self,
        fp32: Fp32Model,
        recipe: Recipe,
        source: CalibrationSource,
        budget: Budget,
        originals: OriginalAnswers | None,
        step: Callable[[str], None],
    ) -> None:
        quantised_layers(fp32, recipe)  # a wrong name is refused before the frames are read
        self.fp32, self.recipe, self.source, self.budget, self.step = fp32, recipe, source, budget, step
        self.originals = originals
        self.frames = (
            None
            if source.calib is None
            else CalibrationFrames(Path(source.calib), fp32.spec, source.max_frames, source.size)
        )
        self.data = None if budget.data is None else LabelledFolder(budget.data, fp32.spec.color_order)
        self.sensitivity: Sensitivity | None = None

    def write(self, output: Path, begun: float) -> QuantizationResult:
        """All steps; ``begun`` is the time of ``time.monotonic`` at which the call began."""
        if self.originals is not None:
            self._check_original(self.fp32.model, self.fp32.spec, str(self.fp32.path))
        self.table = self._table()
        if self.source.save_table is not None:
            self.table.save(self.source.save_table)
        if self.budget.sensitivity is not None:
            self._ranking()  # named, so it is read or measured whether the budget needs it or not
        recipe, report = self.recipe, None
        if self.budget.max_drop is not None and self.data is not None:
            recipe, report = within_budget(
                *(self.fp32, self.table, recipe, self.data, self.budget.max_drop),
                ranking=self._ranking,
                progress=self.step,
            )
        self.step("placing Q/DQ")
        graph = quantized_graph(self.fp32, self.table, recipe)
        self.step("comparing with fp32")
        agreement = None if self.frames is None else compare_labels(self.fp32.model, graph, self.frames)
        described = _describe(self.fp32, self.table, recipe, agreement, report)
        if self.originals is not None:
            record = self._check_original(graph, described, f"the INT8 graph of {self.fp32.path}")
            described = described.with_evidence("answers", record)
        spec = write_model(graph, described, output)
        return QuantizationResult(
            path=output,
            spec=spec,
            seconds=time.monotonic() - begun,
            bytes=output.stat().st_size,
            sha256=sha256_of(output),
            warnings=(*self.table.warnings, *_low_agreement(agreement)),
            agreement=agreement,
            sensitivity=self.sensitivity,
            budget=report,
        )

    def _check_original(self, graph: ModelProto, spec: ModelSpec, name: str) -> dict[str, Any]:
        """The evidence that a graph answers as the original network does. Raises ParityError."""
        assert self.originals is not None
        return require_answers(graph, spec, self.originals, name, progress=self.step)

    def _table(self) -> CalibrationTable:
        """The calibration table that was given, or a new one."""
        source = self.source
        if self.frames is None:
            table = CalibrationTable.load(Path(str(source.table)), self.fp32.model)
            if source.percentile not in (PERCENTILE, table.percentile):
                raise UsageError(
                    f"{source.table} was made with percentile {table.percentile:g}, not "
                    f"{source.percentile:g}; calibrate again with --calib FOLDER"
                )
            return table
        advance = self._counter("calibrating: {} frames")
        spec = self.fp32.spec
        return calibrate(self.fp32.model, spec, self.frames, percentile=source.percentile, progress=advance)

    def _ranking(self) -> Sensitivity:
        """The sensitivity report: kept from before, read from its file, or measured."""
        if self.sensitivity is not None:
            return self.sensitivity
        path, frames = self.budget.sensitivity, self.data or self.frames
        if path is not None and Path(path).exists():
            self.sensitivity = Sensitivity.load(path, self.fp32, self.recipe)
            return self.sensitivity
        if frames is None:
            raise UsageError(
                "sensitivity is measured on frames; give calibration frames or labelled ones beside the table"
            )
        advance = self._counter("sensitivity: {} layers")
        self.sensitivity = measure(self.fp32, self.table, self.recipe, frames, progress=advance)
        if path is not None:
            self.sensitivity.save(path)
        return self.sensitivity

    def _counter(self, words: str) -> Callable[[], None]:
        """A function that reports one more of ``words`` each time it is called."""
        numbers = itertools.count(1)
        return lambda: self.step(words.format(next(numbers)))


def compare_labels(fp32: ModelProto, quantised: ModelProto, frames: CalibrationFrames) -> LabelAgreement:
    """Label agreement of two graphs in ONNX Runtime on the first calibration frames."""
    shares = []
    with open_session(fp32) as reference, open_session(quantised) as session:
        for batch in itertools.islice(frames, _CHECK_FRAMES):
            results = [s.run(["labels"], {"image": batch})[0] for s in (reference, session)]
            shares.append(label_agreement(*results))
    return LabelAgreement(len(shares), float(np.mean(shares)), float(min(shares)))


def _low_agreement(agreement: LabelAgreement | None) -> Iterator[str]:
    if agreement is not None and agreement.label_agreement < _LOW_AGREEMENT:
        yield (
            f"only {agreement.label_agreement:.2%} of labels equal those of fp32; measure what that costs on "
            "labelled frames (--eval FOLDER), and bound it (--max-drop POINTS)"
        )


def _describe(
    fp32: Fp32Model,
    table: CalibrationTable,
    recipe: Recipe,
    agreement: LabelAgreement | None,
    report: BudgetReport | None,
) -> ModelSpec:
    """The new artefact's description: precision, parent, and the evidence."""
    layers = quantised_layers(fp32, recipe)
    spec = fp32.spec.replace(
        precision=recipe.precision,
        evidence=fp32.spec.evidence_for_child(),
    ).with_parent(kind="onnx", name=fp32.path.name, sha256=identity(fp32.path))
    evidence = {
        "target": recipe.target,
        "method": recipe.method,
        "frames": table.frames,
        "frames_sha256": table.frames_sha256,
        "source": table.source,
        "sizes": [list(size) for size in table.sizes],
        "int8_layers": layers,
        "float_layers": [name for name in layer_inputs(fp32.model) if name not in layers],
        "reduce_range": recipe.target == "cpu" and not recipe.assume_vnni,
        "assume_vnni": recipe.assume_vnni,
        "warnings": list(table.warnings),
        "agreement_with_fp32": dataclasses.asdict(agreement)
        if agreement
        else "not checked: quantised from a table, without frames",
    }
    if recipe.method == "percentile":
        evidence["percentile"] = table.percentile
    if report is not None:
        evidence["budget"] = report.to_dict()
    return spec.with_evidence("quantization", evidence)
