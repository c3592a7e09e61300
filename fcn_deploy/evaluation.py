"""An artefact on labelled frames -> the paper's four metrics, with one frame in memory at a time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.data.frames import Frame
from fcn_deploy.draw import Picture, colorize, confusion_picture, strip
from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.metrics import ConfusionMatrix
from fcn_deploy.results import Result, Rows
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.base import Segmentation
from fcn_deploy.runtimes.location import locate, shown
from fcn_deploy.runtimes.onnx_format import is_onnx_file
from fcn_deploy.runtimes.registry import load
from fcn_deploy.spec import ModelSpec

METRICS = (
    ("mean IU", "mean_iu"),
    ("pixel accuracy", "pixel_accuracy"),
    ("mean accuracy", "mean_accuracy"),
    ("fw IU", "fw_iu"),
)
"""The paper's four metrics: their names, and the attributes of :class:`Evaluation`."""


class OpenModel(Protocol):
    """What is scored: a Segmenter or a Runtime."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def backend(self) -> str: ...
    def infer(self, images: NDArray[np.uint8]) -> Segmentation: ...


class LabelledFrames(Protocol):
    """Frames with labels; reading one may raise SourceError without ending the evaluation."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Frame: ...


@dataclass(frozen=True)
class ScoredFrame:
    """One of the worst frames: its image and true labels, and the labels that were predicted."""

    mean_iu: float
    frame: Frame
    predicted: NDArray[np.uint8]
    """uint8 ``[H, W]``."""


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """How well an artefact labels frames. Fractions are from 0 to 1."""

    artefact: str
    """Its path as it was given, or its URL without user, password and query; empty for a model that was
    already open."""
    backend: str
    """What ran it."""
    spec: ModelSpec
    """The model's description."""
    confusion: ConfusionMatrix
    """Pixels counted by true and predicted class; the metrics are taken from it."""
    frames: int
    """How many were scored."""
    problems: tuple[str, ...] = ()
    """A sentence for each frame that could not be scored; it is in none of the figures."""
    warnings: tuple[str, ...] = ()
    """A sentence for each label file without an image."""
    worst: tuple[ScoredFrame, ...] = ()
    """Lowest mean IU first."""

    @property
    def mean_iu(self) -> float:
        """Intersection over union, the mean of the classes."""
        return self.confusion.mean_iu

    @property
    def pixel_accuracy(self) -> float:
        """Share of pixels with the true label."""
        return self.confusion.pixel_accuracy

    @property
    def mean_accuracy(self) -> float:
        """Share of a class's pixels with the true label, the mean of the classes."""
        return self.confusion.mean_accuracy

    @property
    def fw_iu(self) -> float:
        """Intersection over union, weighted by how frequent each class is."""
        return self.confusion.fw_iu

    @property
    def iu_by_class(self) -> dict[str, float | None]:
        """By class name; None for a class that is in neither the true nor the predicted labels."""
        values = self.confusion.iu_by_class
        return {
            name: None if math.isnan(value) else float(value)
            for name, value in zip(self.spec.classes, values, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """As ``eval --json`` writes it."""
        return {
            "artefact": self.artefact,
            "backend": self.backend,
            **{key: getattr(self, key) for _, key in METRICS},
            "iu_by_class": self.iu_by_class,
            "frames": self.frames,
            "problems": list(self.problems),
        }

    def draw_confusion(self) -> Picture:
        """The confusion matrix as a picture, uint8 ``[H, W, 3]`` R, G, B."""
        return confusion_picture(self.confusion.counts, self.spec.classes)

    def draw_worst(self) -> Picture:
        """Each of :attr:`worst` with its true and its predicted labels, uint8 ``[H, W, 3]`` R, G, B.

        Raises:
            SourceError: no frame was kept.
        """
        return strip([self._drawn(one) for one in self.worst])

    def _drawn(self, one: ScoredFrame) -> tuple[str, list[Picture]]:
        image = one.frame.image[..., ::-1] if self.spec.color_order == "bgr" else one.frame.image
        assert one.frame.labels is not None, "a frame without labels is not scored"
        maps = [colorize(labels, self.spec.palette) for labels in (one.frame.labels, one.predicted)]
        caption = f"{one.frame.name}: mean IU {one.mean_iu:.3f}   (frame, true labels, predicted labels)"
        return caption, [image, *maps]

    def summary(self) -> Rows:
        by_class = ", ".join(
            f"{name} {'-' if iu is None else f'{iu:.4f}'}" for name, iu in self.iu_by_class.items()
        )
        return [
            ("artefact", self.artefact),
            ("backend", self.backend),
            ("frames", str(self.frames)),
            *((title, f"{getattr(self, key):.4f}") for title, key in METRICS),
            ("IU by class", by_class),
            *(("warning", sentence) for sentence in self.warnings),
            *(("not scored", sentence) for sentence in self.problems),
        ]


def evaluate(
    artefact: str | Path | OpenModel,
    data: str | Path | LabelledFrames,
    *,
    ignore_label: int | None = None,
    keep_worst: int = 0,
    simulate_fp16: bool = False,
    backend: str | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Evaluation:
    """Score an artefact on labelled frames.

    Args:
        artefact: a file, which is opened and closed again; or what :func:`fcn_deploy.load` returned.
        data: a folder as :class:`~fcn_deploy.data.folders.LabelledFolder` takes it, or frames in the
            model's colour order with their labels.
        ignore_label: true label that is not scored, 0 to 255; None takes the spec's.
        keep_worst: how many of the worst frames to keep in the result.
        simulate_fp16: round as fp16 hardware does where an ``.onnx`` file holds fp16; a CPU computes it in
            fp32 otherwise.
        backend: as :func:`fcn_deploy.load` takes it.
        device: as :func:`fcn_deploy.load` takes it.
        progress: called after each frame with the number of frames done and of all frames.
        options: as :func:`fcn_deploy.load` takes them.

    Raises:
        UsageError: an argument is out of range, options are given for a model that is already open, or the
            frames have another colour order than the model. And as :func:`fcn_deploy.load`.
        ModelError, EngineError, BackendUnavailable: as :func:`fcn_deploy.load`.
        SourceError: the folder has no labelled frames, no frame could be scored, or each of their pixels
            is ignored.
        InferenceError: the backend failed.
    """
    if ignore_label is not None and not 0 <= ignore_label <= 255:
        raise UsageError(f"ignore_label must be from 0 to 255, not {ignore_label}")
    if keep_worst < 0:
        raise UsageError(f"keep_worst must be 0 or more, not {keep_worst}")
    if isinstance(artefact, (str, Path)):
        with (
            _simulated(artefact, simulate_fp16) as opened,
            load(opened, backend=backend, device=device, **options) as model,
        ):
            found = _evaluate(model, data, ignore_label, keep_worst, progress)
        suffix = "" if opened == artefact else ", fp16 simulated"
        return replace(found, artefact=shown(artefact), backend=found.backend + suffix)
    if not hasattr(artefact, "infer"):
        raise UsageError(f"evaluate takes one file, or what load returned, not a {type(artefact).__name__}")
    if backend or device or options or simulate_fp16:
        raise UsageError("backend, device and other options are for a file; this model is already open")
    return _evaluate(artefact, data, ignore_label, keep_worst, progress)


@contextmanager
def _simulated(artefact: str | Path, wanted: bool) -> Iterator[str | Path]:
    """The artefact, or a temporary file that rounds as fp16 does where that is wanted and it holds fp16."""
    location = locate(artefact) if wanted else artefact
    if not (wanted and is_onnx_file(location) and "fp16" in read_spec(location).precision):
        yield artefact
        return
    from fcn_deploy.export.rounding import simulated_artefact

    with simulated_artefact(Path(location)) as temporary:
        yield temporary


def _evaluate(
    model: OpenModel,
    data: str | Path | LabelledFrames,
    ignore_label: int | None,
    keep_worst: int,
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    spec = model.spec
    dataset = _labelled_frames(data, spec)
    ignored = spec.ignore_label if ignore_label is None else ignore_label
    confusion = ConfusionMatrix(spec.num_classes, ignored)
    problems: list[str] = []
    worst: list[tuple[float, int, ScoredFrame]] = []
    for index in range(len(dataset)):
        try:
            own, one = _score(model, dataset[index], ignored)
        except SourceError as exc:
            problems.append(str(exc))
        else:
            confusion.counts += own.counts
            if keep_worst and not math.isnan(one.mean_iu):
                heapq.heappush(worst, (-one.mean_iu, -index, one))
                if len(worst) > keep_worst:
                    heapq.heappop(worst)  # the one with the highest mean IU
            del one  # so that only one frame is in memory when the next is read
        if progress:
            progress(index + 1, len(dataset))
    scored = len(dataset) - len(problems)
    if scored == 0:
        first = problems[0] if problems else "the folder is empty"
        raise SourceError(f"not one of {len(dataset)} frames could be scored; the first: {first}")
    if not confusion.counts.any():
        raise SourceError(f"every pixel of {scored} frames has an ignored label; there is nothing to score")
    return Evaluation(
        artefact="",
        backend=model.backend,
        spec=spec,
        confusion=confusion,
        frames=scored,
        problems=tuple(problems),
        warnings=tuple(f"{path} has no image" for path in getattr(dataset, "orphans", ())),
        worst=tuple(one for _, _, one in sorted(worst, reverse=True)),
    )


def _labelled_frames(data: str | Path | LabelledFrames, spec: ModelSpec) -> LabelledFrames:
    if isinstance(data, (str, Path)):
        return LabelledFolder(data, color_order=spec.color_order)
    order = getattr(data, "color_order", spec.color_order)
    if order != spec.color_order:
        raise UsageError(
            f"the frames are in {order} order and the model expects {spec.color_order}; open them with "
            f"color_order={spec.color_order!r}"
        )
    return data


def _score(model: OpenModel, frame: Frame, ignored: int) -> tuple[ConfusionMatrix, ScoredFrame]:
    """One frame's counts and predicted labels. Raises SourceError that names the frame."""
    if frame.labels is None:
        raise SourceError(f"{frame.name} has no labels")
    own = ConfusionMatrix(model.spec.num_classes, ignored)
    try:
        predicted = model.infer(frame.image[None]).labels[0]
        own.update(frame.labels, predicted)
    except SourceError as exc:
        raise SourceError(f"{frame.name}: {exc}") from exc
    return own, ScoredFrame(own.mean_iu, frame, predicted)
