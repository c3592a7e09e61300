"""Which layers INT8 hurts: each one quantised alone, and held against fp32."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.calibration.recipe import Recipe, Subject, layer_costs, make, quantised_layers
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

    def worst_first(self) -> list[str]:
        """Layers by the harm that INT8 does in them."""
        return [cost.layer for cost in sorted(self.layers, key=lambda cost: cost.harm, reverse=True)]

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, subject: Subject, recipe: Recipe) -> Sensitivity:
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
        wanted = (identity(subject.model), recipe.target, recipe.method)
        if (report.model, report.target, report.method) != wanted:
            raise CalibrationError(
                f"{found} is stale: it was made for model {report.model[:12]}..., target {report.target}, "
                f"method {report.method}, and this is {wanted[0][:12]}..., {wanted[1]}, {wanted[2]}; name "
                "another file to measure again"
            )
        measured = {cost.layer for cost in report.layers}
        if missing := [name for name in quantised_layers(subject, recipe) if name not in measured]:
            raise CalibrationError(
                f"{found} does not cover {missing[0]}, which was left out when it was measured; name another "
                "file to measure again"
            )
        return report


def measure(
    subject: Subject,
    table: CalibrationTable,
    recipe: Recipe,
    frames: CalibrationFrames | LabelledFolder,
    *,
    progress: Callable[[], None] | None = None,
) -> Sensitivity:
    """Quantise each layer alone and compare with fp32 on up to :data:`FRAMES` frames.

    Args:
        subject: the fp32 graph.
        table: its ranges.
        recipe: target and method; layers it leaves out are not tried.
        frames: with labels, lost points of mean IU are measured too.
        progress: called after each layer, and once after fp32.

    Raises:
        SourceError: no frame can be used.
    """
    images, truths = _pick(frames, subject)
    step = progress or (lambda: None)
    reference = _labels(subject.model, images)
    before = _mean_iu(truths, reference, subject)
    step()
    work = layer_costs(subject.model)
    everything = quantised_layers(subject, recipe)
    costs = []
    for layer in everything:
        others = tuple(name for name in everything if name != layer)
        alone = replace(recipe, rest="fp32", float_layers=(*recipe.float_layers, *others))
        answers = _labels(make(subject, table, alone), images)
        after = _mean_iu(truths, answers, subject)
        costs.append(
            LayerCost(
                layer,
                float(np.mean([label_agreement(a, b) for a, b in zip(reference, answers, strict=True)])),
                None if before is None or after is None else 100 * (before - after),
                work[layer],
            )
        )
        step()
    return Sensitivity(identity(subject.model), recipe.target, recipe.method, len(images), tuple(costs))


Images = list[np.ndarray[Any, np.dtype[np.uint8]]]


def _pick(frames: CalibrationFrames | LabelledFolder, subject: Subject) -> tuple[Images, Images | None]:
    """Frames spread evenly over the source, as uint8 ``[1, H, W, 3]``, and their labels."""
    if isinstance(frames, CalibrationFrames):
        few = replace(frames, max_frames=min(FRAMES, frames.max_frames))
        return list(few), None
    images, truths = [], []
    for index in np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int):
        frame = frames[int(index)]
        assert frame.labels is not None, "a labelled folder gives labels"
        images.append(check_frames(frame.image[None], subject.spec))
        truths.append(frame.labels)
    if not images:
        raise SourceError(f"{frames.images} has no frame to measure on; give a labelled folder")
    return images, truths


def _labels(model: ModelProto, images: Images) -> Images:
    with open_session(model) as session:
        return [session.run(["labels"], {"image": image})[0] for image in images]


def _mean_iu(truths: Images | None, answers: Images, subject: Subject) -> float | None:
    if truths is None:
        return None
    matrix = ConfusionMatrix(subject.spec.num_classes, subject.spec.ignore_label)
    for truth, answer in zip(truths, answers, strict=True):
        matrix.update(truth, answer[0])
    return float(matrix.mean_iu)
