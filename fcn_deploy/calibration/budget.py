"""Which layers to leave in higher precision so that a budget of mean IU holds."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.calibration.recipe import Fp32Model, Recipe, layer_costs, quantized_graph
from fcn_deploy.calibration.sensitivity import Sensitivity
from fcn_deploy.calibration.table import CalibrationTable
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import CalibrationError, SourceError
from fcn_deploy.evaluation import evaluate
from fcn_deploy.export.graph.files import write_model
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.rounding import simulate_fp16
from fcn_deploy.runtimes.base import check_frames

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Trial:
    """One evaluation on the way to a budget."""

    float_layers: tuple[str, ...]
    mean_iu: float
    drop: float
    """Points of mean IU below fp32."""


@dataclass(frozen=True)
class BudgetReport:
    """How a budget was kept."""

    data: str
    """Bare name of the labelled folder."""
    max_drop: float
    """Points of mean IU that may be lost."""
    fp32_mean_iu: float
    trials: tuple[Trial, ...]
    """All evaluations, in order."""
    kept: Trial
    """The one that was written."""
    float_work: float
    """Share of the convolutions' multiply-adds left in higher precision for the budget."""
    slowdown: float | None
    """Time of the kept graph over that of all layers in INT8, on this CPU; None for TensorRT."""
    simulated_fp16: bool
    """Whether fp16 was simulated while measuring (it always is where fp16 is in the graph)."""

    def to_dict(self) -> dict[str, Any]:
        """For the spec's evidence."""
        return dataclasses.asdict(self)


def within_budget(
    fp32: Fp32Model,
    table: CalibrationTable,
    recipe: Recipe,
    data: LabelledFolder,
    max_drop: float,
    *,
    ranking: Callable[[], Sensitivity],
    progress: Callable[[str], None] | None = None,
) -> tuple[Recipe, BudgetReport]:
    """Leave as few layers in higher precision as keep mean IU within ``max_drop`` points of fp32.

    All layers in INT8 are tried first. Where that loses too much, the number of layers to leave out, worst
    first, is found by bisection: four evaluations for fifteen layers.

    Args:
        fp32: the fp32 graph.
        table: its ranges.
        recipe: how to quantise; its ``float_layers`` stay left out in any case.
        data: what mean IU is measured on.
        max_drop: points of mean IU (of 100) that may be lost; at least 0.
        ranking: gives the sensitivity report; called only where it is needed.
        progress: called with a sentence before each evaluation.

    Returns:
        The recipe that keeps the budget, and how it was found.

    Raises:
        CalibrationError: not even one layer in INT8 keeps it; the message says the best that was reached.
    """
    step = progress or (lambda _: None)
    step("evaluating fp32")
    before = _evaluate(fp32.model, fp32, data)
    trials: list[Trial] = []

    def attempt(left: Sequence[str]) -> Trial:
        layers = (*recipe.float_layers, *left)
        step(f"evaluating with {len(layers)} layers left in higher precision")
        graph = quantized_graph(fp32, table, replace(recipe, float_layers=layers))
        score = _evaluate(simulate_fp16(graph) if recipe.half else graph, fp32, data)
        trials.append(Trial(layers, score, 100 * (before - score)))
        return trials[-1]

    kept = attempt(())
    if kept.drop > max_drop:
        order = [cost.layer for cost in ranking().by_harm() if cost.layer not in recipe.float_layers]
        fewest = _bisect(attempt, order, max_drop)
        if fewest is None:
            best = min(trials, key=lambda trial: trial.drop)
            raise CalibrationError(
                f"mean IU cannot be kept within {max_drop:g} points of fp32 ({before:.4f}): the best of "
                f"{len(trials)} tries lost {best.drop:.2f} points (mean IU {best.mean_iu:.4f}) with "
                f"{len(best.float_layers)} layers in higher precision "
                f"({', '.join(best.float_layers) or 'none'}); allow more, calibrate on more frames, or try "
                "another --method"
            )
        kept = fewest
    work = layer_costs(fp32)
    report = BudgetReport(
        data=data.images.resolve().name,
        max_drop=max_drop,
        fp32_mean_iu=before,
        trials=tuple(trials),
        kept=kept,
        float_work=sum(work[name] for name in kept.float_layers if name not in recipe.float_layers),
        slowdown=_slowdown(fp32, table, recipe, kept, data) if recipe.target == "cpu" else None,
        simulated_fp16=recipe.half,
    )
    return replace(recipe, float_layers=kept.float_layers), report


def _bisect(attempt: Callable[[Sequence[str]], Trial], order: Sequence[str], max_drop: float) -> Trial | None:
    """The fewest layers, worst first, whose leaving out keeps the budget; None where none does."""
    low, high, found = 1, len(order) - 1, None
    while low <= high:
        middle = (low + high) // 2
        trial = attempt(order[:middle])
        if trial.drop <= max_drop:
            found, high = trial, middle - 1
        else:
            low = middle + 1
    return found


def _evaluate(model: ModelProto, fp32: Fp32Model, data: LabelledFolder) -> float:
    from fcn_deploy.runtimes.registry import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        write_model(model, fp32.spec, path)
        with load(path, backend="onnxruntime", device="cpu") as segmenter:
            found = evaluate(segmenter, data)
    if found.problems:
        raise SourceError(
            f"{len(found.problems)} frames of {data.images} cannot be scored, the first because "
            f"{found.problems[0]}; a budget needs every frame"
        )
    return found.mean_iu


def _slowdown(
    fp32: Fp32Model, table: CalibrationTable, recipe: Recipe, kept: Trial, data: LabelledFolder
) -> float:
    """Median over rounds of kept graph by all-INT8 graph, on one frame, one after the other."""
    if kept.float_layers == recipe.float_layers:
        return 1.0
    image = check_frames(data[0].image[None], fp32.spec)
    recipes = (recipe, replace(recipe, float_layers=kept.float_layers))
    graphs = [quantized_graph(fp32, table, each) for each in recipes]
    ratios = []
    with open_session(graphs[0]) as every, open_session(graphs[1]) as mixed:
        for _ in range(7):
            times = []
            for session in (every, mixed):
                began = time.perf_counter()
                session.run(["labels"], {"image": image})
                times.append(time.perf_counter() - began)
            ratios.append(times[1] / times[0])
    return statistics.median(ratios[2:])
