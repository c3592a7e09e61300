"""Which layers lose accuracy in INT8: each one quantised alone, and compared with fp32."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.calibration.recipe import Fp32Model, Recipe, layer_costs, quantised_layers, quantized_graph
from fcn_deploy.calibration.table import CalibrationTable
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.errors import CalibrationError, SourceError
from fcn_deploy.export.graph.files import identity
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.files import input_file, write_text
from fcn_deploy.metrics import ConfusionMatrix, label_agreement
from fcn_deploy.runtimes.base import check_frames

if TYPE_CHECKING:
    from onnx import ModelProto

FRAMES = 16
"""Frames on which layers are tried one by one: enough to rank them."""


@dataclass(frozen=True)
class LayerCost:
    """What INT8 in one layer alone costs."""

    layer: str
    label_agreement: float
    """Share of pixels labelled as in fp32, from 0 to 1."""
    drop: float | None
    """Points of mean IU lost (100 points are the whole scale); None without labels."""
    work: float
    """Its share of all convolutions' multiply-adds, from 0 to 1."""

    @property
    def harm(self) -> tuple[float, float]:
        """To sort by: lost points first where they are known, then changed labels."""
        return (self.drop or 0.0, 1 - self.label_agreement)


@dataclass(frozen=True)
class Sensitivity:
    """The costs of all layers, for one model, target and method."""

    model: str
    target: str
    method: str
    frames: int
    layers: tuple[LayerCost, ...]

    def by_harm(self) -> list[LayerCost]:
        """The costs of all layers, worst first."""
        return sorted(self.layers, key=lambda cost: cost.harm, reverse=True)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, fp32: Fp32Model, recipe: Recipe) -> Sensitivity:
        """Read a report made for the same model, target and method.

        Raises:
            UsageError: the file is missing.
            CalibrationError: it is no report, or of something else.
        """
        found = input_file(Path(path), "sensitivity report")
        try:
            data: dict[str, Any] = json.loads(found.read_text())
            report = cls(**{**data, "layers": tuple(LayerCost(**cost) for cost in data["layers"])})
        except (ValueError, TypeError, KeyError) as exc:
            raise CalibrationError(
                f"{found} is no sensitivity report ({type(exc).__name__}: {exc}); make one with: fcn-deploy "
                "quantize ... --sensitivity FILE"
            ) from exc
        wanted = (identity(fp32.model), recipe.target, recipe.method)
        if (report.model, report.target, report.method) != wanted:
            raise CalibrationError(
                f"{found} is stale: it was made for model {report.model[:12]}..., target {report.target}, "
                f"method {report.method}, and this is {wanted[0][:12]}..., {wanted[1]}, {wanted[2]}; name "
                "another file to measure again"
            )
        measured = {cost.layer for cost in report.layers}
        if missing := [name for name in quantised_layers(fp32, recipe) if name not in measured]:
            raise CalibrationError(
                f"{found} does not cover {missing[0]}, which was left out when it was measured; name another "
                "file to measure again"
            )
        return report


def measure(
    fp32: Fp32Model,
    table: CalibrationTable,
    recipe: Recipe,
    frames: CalibrationFrames | LabelledFolder,
    *,
    progress: Callable[[], None] | None = None,
) -> Sensitivity:
    """Quantise each layer alone and compare with fp32 on up to :data:`FRAMES` frames.

    Args:
        fp32: the fp32 graph.
        table: its ranges.
        recipe: target and method; layers it leaves out are not tried.
        frames: with labels, lost points of mean IU are measured too.
        progress: called after each layer, and once after fp32.

    Raises:
        SourceError: no frame can be used.
    """
    images, truths = _pick(frames, fp32)
    step = progress or (lambda: None)
    reference = _labels(fp32.model, images)
    before = _mean_iu(truths, reference, fp32)
    step()
    work = layer_costs(fp32)
    everything = quantised_layers(fp32, recipe)
    costs = []
    for layer in everything:
        others = tuple(name for name in everything if name != layer)
        alone = replace(recipe, float_precision="fp32", float_layers=(*recipe.float_layers, *others))
        results = _labels(quantized_graph(fp32, table, alone), images)
        after = _mean_iu(truths, results, fp32)
        costs.append(
            LayerCost(
                layer,
                float(np.mean([label_agreement(a, b) for a, b in zip(reference, results, strict=True)])),
                None if before is None or after is None else 100 * (before - after),
                work[layer],
            )
        )
        step()
    return Sensitivity(identity(fp32.model), recipe.target, recipe.method, len(images), tuple(costs))


Images = list[np.ndarray[Any, np.dtype[np.uint8]]]


def _pick(frames: CalibrationFrames | LabelledFolder, fp32: Fp32Model) -> tuple[Images, Images | None]:
    """Frames spread evenly over the source, as uint8 ``[1, H, W, 3]``, and their labels."""
    if isinstance(frames, CalibrationFrames):
        few = replace(frames, max_frames=min(FRAMES, frames.max_frames))
        return list(few), None
    images, truths = [], []
    for index in np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int):
        frame = frames[int(index)]
        assert frame.labels is not None, "a labelled folder gives labels"
        images.append(check_frames(frame.image[None], fp32.spec))
        truths.append(frame.labels)
    if not images:
        raise SourceError(f"{frames.images} has no frame to measure on; give a labelled folder")
    return images, truths


def _labels(model: ModelProto, images: Images) -> Images:
    with open_session(model) as session:
        return [session.run(["labels"], {"image": image})[0] for image in images]


def _mean_iu(truths: Images | None, results: Images, fp32: Fp32Model) -> float | None:
    if truths is None:
        return None
    matrix = ConfusionMatrix(fp32.spec.num_classes, fp32.spec.ignore_label)
    for truth, result in zip(truths, results, strict=True):
        matrix.update(truth, result[0])
    return float(matrix.mean_iu)
