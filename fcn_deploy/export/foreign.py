"""Somebody else's network as a reference: uint8 frames in, logits or labels of their size out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.export.answer import Answer, find_source, understand
from fcn_deploy.export.original import (
    Original,
    Preparation,
    RunOriginal,
    choose_output,
    read_original,
    run_original,
)
from fcn_deploy.export.parity import Expected, Frames, LogitArray, SizeRefused, parity_frames
from fcn_deploy.spec import Architecture, ModelSpec

_PROBED = ((256, 320), (512, 640), (512, 512), (224, 224), (97, 131))
"""Rows and columns of the frames that a network of any size is tried with, until it takes one."""

_NEIGHBOURS = 4
"""Frames that differ in the last bit only: enough to see what a network makes of rounding."""


@dataclass(frozen=True)
class Reading:
    """What the user says about a file: how its frames are prepared, and what it gives.

    Raises:
        UsageError: two of them contradict each other, or one is out of range.
    """

    preparation: Preparation
    color_order: str
    """Of the frames handed in."""
    output_name: str | None = None
    logits_stride: int | None = None
    align_corners: bool = False
    size_multiple: int = 1
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.align_corners and self.logits_stride is None:
            raise UsageError("--align-corners is about resizing logits; give --logits-stride too")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(f"threshold is a probability between 0 and 1, not {self.threshold}")


@dataclass(frozen=True)
class ForeignNetwork:
    """A file that is open, and what is known about it."""

    reading: Reading
    answer: Answer
    run: RunOriginal
    assumptions: tuple[str, ...]
    """A sentence for each thing that was assumed about its input and outputs."""

    def expected(self, images: Frames) -> Expected:
        """What it gives for uint8 ``[N, H, W, 3]`` frames, at their size. Raises SizeRefused."""
        return self._at_size(self.run(images), images)

    def labels(self, images: Frames) -> Frames:
        """Its labels, uint8 ``[N, H, W]``. Raises SizeRefused."""
        logits, labels = self.expected(images)
        if labels is not None:
            return labels
        assert logits is not None, "it gives logits or labels"
        best: Frames = logits.argmax(1).astype(np.uint8)
        return best

    def neighbours(self, images: Frames) -> Iterator[LogitArray]:
        """Its logits for prepared frames whose numbers are moved by one unit in the last place."""
        for seed in range(_NEIGHBOURS):
            logits = self._at_size(self.run(images, seed), images).logits
            if logits is not None:
                yield logits

    def _at_size(self, found: list[NDArray[Any]], images: Frames) -> Expected:
        height, width = images.shape[1:3]
        return self.answer.expected(found, (height, width), _padded(height, width, self.reading))


def _padded(height: int, width: int, reading: Reading) -> tuple[int, int]:
    multiple = reading.size_multiple
    return height + -height % multiple, width + -width % multiple


@contextmanager
def open_network(original: Original, reading: Reading) -> Iterator[ForeignNetwork]:
    """Open a file, and find out what it gives by running it once.

    Raises:
        UsageError: it is not what the user says.
        ModelError: ONNX Runtime refuses it, it takes no frame, or gives neither logits nor labels.
    """
    _check_fixed(original, reading)
    output, assumption = choose_output(original, reading.output_name)
    source = find_source(original, output)
    with run_original(
        original, source.tensors, reading.preparation, reading.color_order, reading.size_multiple
    ) as run:
        found, padded = _probe(original, reading, run)
        answer = understand(
            *(original, source, found, padded),
            logits_stride=reading.logits_stride,
            align_corners=reading.align_corners,
            threshold=reading.threshold,
        )
        assumed = (original.input.assumption, assumption)
        yield ForeignNetwork(reading, answer, run, tuple(text for text in assumed if text is not None))


def _check_fixed(original: Original, reading: Reading) -> None:
    """Refuse to pad the frames of a network that takes one size."""
    _, height, width = original.input.fixed
    if reading.size_multiple > 1 and (height, width) != (None, None):
        raise UsageError(
            f"{original.name} takes frames of {height or 'any height'}x{width or 'any width'} only, none to "
            "pad; leave out --size-multiple, or export it with dynamic axes"
        )


def _probe(
    original: Original, reading: Reading, run: RunOriginal
) -> tuple[list[NDArray[Any]], tuple[int, int]]:
    """Its tensors for one frame, and the rows and columns that it was given."""
    batch, height, width = original.input.fixed
    spec = ModelSpec(("any", "other"), Architecture("onnx"), color_order=reading.color_order)
    reasons = []
    for rows, columns in dict.fromkeys((height or h, width or w) for h, w in _PROBED):
        try:
            found = run(parity_frames(batch or 1, rows, columns, spec))
        except SizeRefused as exc:
            reasons.append(f"{rows}x{columns}: {exc}")
            continue
        return found, _padded(rows, columns, reading)
    raise ModelError(
        f"{original.name} takes none of the frames that were tried ({reasons[0]}); where it takes multiples "
        "of some size only, give --size-multiple"
    )


@contextmanager
def original_labels(original: str | Path, spec: ModelSpec) -> Iterator[Callable[[Frames], Frames]]:
    """The labels of the file that an artefact was wrapped from.

    Args:
        original: the file.
        spec: the artefact's description, as :func:`fcn_deploy.wrap_model` wrote it.

    Yields:
        A function of uint8 ``[N, H, W, 3]`` frames that gives uint8 ``[N, H, W]``.

    Raises:
        ModelError: the file is damaged, or takes no frames.
    """
    options = spec.architecture.options
    order = options["channel_order"]
    mean, std = (values if order == "bgr" else values[::-1] for values in (spec.mean, spec.std))
    reading = Reading(
        preparation=Preparation(mean, std, 1.0, order),
        color_order=spec.color_order,
        output_name=options.get("output_name"),
        logits_stride=options.get("logits_stride"),
        align_corners=bool(options.get("align_corners")),
        size_multiple=spec.size_multiple,
        threshold=spec.threshold,
    )
    with open_network(read_original(original), reading) as network:
        yield network.labels
