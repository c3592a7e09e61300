"""An ONNX file that somebody else exported -> a deploy graph, checked before it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.arguments import as_integer, as_names, as_size
from fcn_deploy.classes import ClassSet, neutral_names
from fcn_deploy.errors import ExportError, ModelError, ParityError, UsageError, first_line
from fcn_deploy.export.answer import Answer, find_source, understand
from fcn_deploy.export.checkpoint import ExportResult, class_set, output_names
from fcn_deploy.export.evidence import made_now
from fcn_deploy.export.graph.files import write_model
from fcn_deploy.export.graph.foreign import simplify
from fcn_deploy.export.graph.opset import OPSET, fit_opset, needed_onnxruntime, opset_of
from fcn_deploy.export.graph.surround import declare, surround
from fcn_deploy.export.limits import Limits
from fcn_deploy.export.original import (
    Original,
    Preparation,
    Run,
    channel_order,
    choose_output,
    read_original,
    run_original,
    stated_preparation,
)
from fcn_deploy.export.parity import (
    TOLERANCE,
    Expected,
    Frames,
    ParityReference,
    SizeRefused,
    check_parity,
    parity_frames,
)
from fcn_deploy.export.preparation import order_warning, to_spec
from fcn_deploy.export.tensorrt.declared import declared_precision
from fcn_deploy.files import check_output, sha256_of
from fcn_deploy.lazy import require, version_of
from fcn_deploy.spec import Architecture, ModelSpec
from fcn_deploy.spec import Reference as Origin

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIXES = (".onnx",)
_BINARY = ("background", "foreground")
"""Names of the two classes of a network with one channel."""

_PROBED = ((256, 320), (512, 640), (512, 512), (224, 224), (97, 131))
"""Rows and columns of the frames that a network of any size is tried with, until it takes one."""

_TOLERANCES = {"fp32": TOLERANCE, "fp16": 1e-2, "int8": None, "int8+fp16": None}
"""By the precision of the file. Frames that are prepared in another order of operations differ in the last
bit of float32, and where fp16 or INT8 rounds that, now and then by a whole step of theirs."""
_INT8_AGREEMENT = 0.99
"""Smallest share of equal labels for a file that is INT8."""

_OLDEST_ONNXRUNTIME = "1.18"
"""The oldest that this package supports: what needs no more is not worth a word."""


@dataclass(frozen=True)
class _WrapFacts:
    """What the user says about the file, checked."""

    preparation: Preparation
    color_order: str
    named: ClassSet | None
    num_classes: int | None
    ignore_label: int | None
    outputs: tuple[str, ...]
    output_name: str | None
    logits_stride: int | None
    align_corners: bool
    size_multiple: int
    threshold: float | None
    max_size: tuple[int, int] | None
    note: str | None


def wrap_model(
    model: str | Path,
    path: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float | None = None,
    trained_on: str = "rgb",
    color_order: str = "bgr",
    classes: str | Path | Sequence[str] | None = None,
    num_classes: int | None = None,
    ignore_label: int | None = None,
    outputs: str | Sequence[str] = "labels",
    output_name: str | None = None,
    logits_stride: int | None = None,
    align_corners: bool = False,
    size_multiple: int = 1,
    threshold: float | None = None,
    max_size: tuple[int, int] | None = None,
    note: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Make an artefact of an ONNX file that another tool exported, and verify it before it is written.

    The file takes float frames of three channels and gives logits, probabilities or labels. Its preparation
    of frames goes into the graph, and so does everything behind it. An artefact of a file with a fixed size
    takes frames of this size only.

    Args:
        model: the ``.onnx`` file; weights beside it are read too.
        path: the ``.onnx`` file to write.
        mean: one number a channel, in the channel order of the training (R, G, B for ``trained_on="rgb"``).
            The network reads ``(frame * scale - mean) / std``, of frames of 0..255.
        std: in the same order.
        scale: what frames are multiplied with before the mean is subtracted, such as ``1 / 255``; None for 1.
        trained_on: ``rgb`` or ``bgr``, of the frames that the network was trained on.
        color_order: ``bgr`` or ``rgb``, of the frames handed to the artefact.
        classes: names by class id, a file of them, or ``camvid`` or ``voc``; None uses numbers.
        num_classes: how many there are, where the file does not tell: it gives labels only.
        ignore_label: label of pixels that are not scored, 0 to 255.
        outputs: ``labels`` (always there), and on request ``confidence`` and ``logits``.
        output_name: of the file's outputs, the one with logits or labels.
        logits_stride: they are smaller than the frame by this factor. Logits are resized bilinearly, labels
            are repeated.
        align_corners: of that resize, as in ``torch.nn.functional.interpolate``.
        size_multiple: the network takes multiples of so many rows and columns only; frames are padded inside
            the graph.
        threshold: for a network of one channel: class 1 is where its sigmoid is above it; None for 0.5.
        max_size: height and width of the largest frame that is accepted.
        note: shown wherever the model is named.
        progress: called with the name of each step as it begins.

    Raises:
        UsageError: an argument cannot be used or does not fit the file, or a file cannot be read or written.
        ModelError: the file is damaged, or is no network that can be wrapped.
        ParityError: the graph does not give what the file gives; nothing was written.
        ExportError: the graph cannot be converted.
        MissingDependency: onnx or ONNX Runtime is not installed.
    """
    begun = time.monotonic()
    target = check_output(path, SUFFIXES)
    if Path(model).resolve() == target.resolve():
        raise UsageError(f"{target} is the model itself; name another file to write")
    stated = _WrapFacts(
        preparation=stated_preparation(mean, std, scale, trained_on),
        color_order=channel_order("color_order", color_order),
        named=class_set(classes, num_classes),
        num_classes=num_classes,
        ignore_label=ignore_label,
        outputs=output_names(as_names(outputs)),
        output_name=output_name,
        logits_stride=None if logits_stride is None else as_integer("logits_stride", logits_stride, 2),
        align_corners=align_corners,
        size_multiple=as_integer("size_multiple", size_multiple, 1),
        threshold=threshold,
        max_size=None if max_size is None else as_size("max_size", max_size),
        note=note,
    )
    _check_together(stated)
    step = progress or (lambda _: None)
    step("reading the file")
    wrapping = _Wrapping(read_original(model), stated, step)
    graph, spec = wrapping.run()
    step("writing")
    spec = write_model(graph, spec, target)
    size, sha256 = target.stat().st_size, sha256_of(target)
    said = tuple(wrapping.said)
    return ExportResult(target, spec, size, sha256, time.monotonic() - begun, said)


@contextmanager
def original_labels(original: str | Path, spec: ModelSpec) -> Iterator[Callable[[Frames], Frames]]:
    """The labels of the file that an artefact was wrapped from, behind numpy preprocessing.

    Args:
        original: the file.
        spec: the artefact's description, as :func:`wrap_model` wrote it.

    Yields:
        A function of uint8 ``[N, H, W, 3]`` frames that gives uint8 ``[N, H, W]``.

    Raises:
        ModelError: the file is damaged, or takes no frames.
    """
    options = spec.architecture.options
    order = options["channel_order"]
    mean, std = (values if order == "bgr" else values[::-1] for values in (spec.mean, spec.std))
    stated = _WrapFacts(
        preparation=Preparation(mean, std, 1.0, order),
        color_order=spec.color_order,
        named=None,
        num_classes=spec.num_classes,
        ignore_label=spec.ignore_label,
        outputs=("labels",),
        output_name=options.get("output_name"),
        logits_stride=options.get("logits_stride"),
        align_corners=bool(options.get("align_corners")),
        size_multiple=spec.size_multiple,
        threshold=spec.threshold,
        max_size=None,
        note=None,
    )
    with _Wrapping(read_original(original), stated, lambda _: None).labels() as labels:
        yield labels


def _check_together(stated: _WrapFacts) -> None:
    if stated.align_corners and stated.logits_stride is None:
        raise UsageError("--align-corners is about resizing logits; give --logits-stride too")
    if stated.threshold is not None and not 0 < stated.threshold < 1:
        raise UsageError(f"threshold is a probability between 0 and 1, not {stated.threshold}")
    if stated.ignore_label is not None and not 0 <= stated.ignore_label <= 255:
        raise UsageError(f"ignore_label is from 0 to 255, not {stated.ignore_label}")
    if stated.num_classes is not None and not 2 <= as_integer("num_classes", stated.num_classes, 1) <= 255:
        raise UsageError(f"num_classes is from 2 to 255, not {stated.num_classes}")


class _Wrapping:
    """One call of :func:`wrap_model`: what its steps share."""

    def __init__(self, original: Original, stated: _WrapFacts, step: Callable[[str], None]) -> None:
        self.original, self.stated, self.step = original, stated, step
        self.said: list[str] = []
        """A sentence for each value that was assumed, and each limit of the artefact."""

    def run(self) -> tuple[ModelProto, ModelSpec]:
        """The deploy graph and its description, compared with the original."""
        original = self.original
        self._check_fixed()
        self.step("running the original")
        with self._understood() as (answer, run):
            self._say_answer(answer)
            spec = self._describe(answer)
            self.step("building the deploy graph")
            graph = self._graph(answer, spec)
            spec = spec.replace(precision=declared_precision(graph).precision)
            self.step(f"checking parity with {original.name}")
            spec = self._compared(graph, spec, answer, run)
        declare(graph.graph, spec)
        return graph, spec.with_evidence("made", self._made(graph))

    @contextmanager
    def labels(self) -> Iterator[Callable[[Frames], Frames]]:
        """A function that gives the original's labels, uint8 ``[N, H, W]``."""
        with self._understood() as (answer, run):

            def labels(images: Frames) -> Frames:
                expected = self._expected(answer, run, images)
                if expected.labels is not None:
                    return expected.labels
                assert expected.logits is not None, "a reference gives one of the two"
                best: Frames = expected.logits.argmax(1).astype(np.uint8)
                return best

            yield labels

    @contextmanager
    def _understood(self) -> Iterator[tuple[Answer, Run]]:
        """What the original gives, and a function that runs it."""
        original, stated = self.original, self.stated
        output, assumption = choose_output(original, stated.output_name)
        self._say(original.input.assumption, assumption)
        source = find_source(original, output)
        with run_original(
            original, source.tensors, stated.preparation, stated.color_order, stated.size_multiple
        ) as run:
            found, padded = self._probe(run)
            answer = understand(
                *(original, source, found, padded),
                logits_stride=stated.logits_stride,
                align_corners=stated.align_corners,
                threshold=stated.threshold,
            )
            yield answer, run

    def _expected(self, answer: Answer, run: Run, images: Frames) -> Expected:
        """What the original gives for frames, at their size."""
        multiple = self.stated.size_multiple
        height, width = images.shape[1:3]
        padded = height + -height % multiple, width + -width % multiple
        return answer.expected(run(images), (height, width), padded)

    def _say(self, *sentences: str | None) -> None:
        self.said += [sentence for sentence in sentences if sentence is not None]

    def _check_fixed(self) -> None:
        """What goes with a fixed size."""
        batch, height, width = self.original.input.fixed
        if self.stated.size_multiple > 1 and (height, width) != (None, None):
            raise UsageError(
                f"{self.original.name} takes frames of {height or 'any height'}x{width or 'any width'} only, "
                "none to pad; leave out --size-multiple, or export it with dynamic axes"
            )
        if (height, width) != (None, None):
            only = f"frames of {height or 'any height'}x{width or 'any width'} only"
            self._say(f"{only}{', one at a time' if batch else ''}: the size is fixed in the file")
        elif batch is not None:
            self._say("one frame at a time: the batch is fixed in the file")

    def _probe(self, run: Run) -> tuple[list[Any], tuple[int, int]]:
        """The original's tensors for one frame, and the rows and columns that it was given."""
        batch, height, width = self.original.input.fixed
        multiple = self.stated.size_multiple
        reasons = []
        for rows, columns in dict.fromkeys((height or h, width or w) for h, w in _PROBED):
            spec = ModelSpec(_BINARY, Architecture("onnx"), color_order=self.stated.color_order)
            try:
                found = run(parity_frames(batch or 1, rows, columns, spec))
            except SizeRefused as exc:
                reasons.append(f"{rows}x{columns}: {exc}")
                continue
            return found, (rows + -rows % multiple, columns + -columns % multiple)
        raise ModelError(
            f"{self.original.name} takes none of the frames that were tried ({reasons[0]}); where it takes "
            "multiples of some size only, give --size-multiple"
        )

    def _say_answer(self, answer: Answer) -> None:
        kind = "probabilities" if answer.probabilities else "logits"
        if answer.kind == "channel":
            default = "" if self.stated.threshold is not None else " (--threshold)"
            self._say(
                f"{answer.tensor}, one channel of {kind}, is class 1 where its probability is above "
                f"{answer.threshold:g}{default}"
            )
        if answer.kind == "map" and {"confidence", "logits"} & set(self.stated.outputs):
            raise UsageError(
                f"{self.original.name} gives labels only, so there is no confidence and there are no logits; "
                "leave --outputs out, or export it without its argmax"
            )

    def _describe(self, answer: Answer) -> ModelSpec:
        """The description, but for what the comparison finds."""
        original, stated = self.original, self.stated
        stats = stated.preparation
        prepared = to_spec(stats.mean, stats.std, stats.scale, stats.channel_order)
        self._say(*order_warning(stats.mean, stats.scale, stats.channel_order))
        named = self._classes(answer)
        batch, height, width = original.input.fixed
        max_height, max_width = stated.max_size or (max(4096, height or 1), max(4096, width or 1))
        options = {
            "file": original.name,
            "channel_order": stats.channel_order,
            "output": answer.tensor,
            "output_name": stated.output_name,
            "logits_stride": answer.stride,
            "align_corners": answer.align_corners or None,
        }
        return ModelSpec(
            classes=named.names,
            palette=named.palette,
            architecture=Architecture("onnx", {k: v for k, v in options.items() if v is not None}),
            color_order=stated.color_order,
            ignore_label=self._ignored(named),
            max_height=max_height,
            max_width=max_width,
            fixed_shape=(batch, height, width),
            threshold=answer.threshold,
            size_multiple=stated.size_multiple,
            outputs=stated.outputs,
            note=stated.note or "",
            reference=Origin(original.name, "file", original.sha256),
            provenance=({"kind": "original", "name": original.name, "sha256": original.sha256},),
            mean=prepared["mean"],
            std=prepared["std"],
        )

    def _ignored(self, named: ClassSet) -> int:
        if self.stated.ignore_label is not None:
            return self.stated.ignore_label
        return named.ignore_label if named.ignore_label is not None else 255

    def _classes(self, answer: Answer) -> ClassSet:
        """The classes stated, which must be as many as the network has; numbers where none are."""
        name, named, stated = self.original.name, self.stated.named, self.stated.num_classes
        has = 2 if answer.kind == "channel" else answer.channels
        binary = has == 2 and answer.kind != "scores"
        if has is not None and not 2 <= has <= 255:
            raise ModelError(f"{answer.tensor} of {name} has {has} channels; 2 to 255 classes are expected")
        wanted = len(named.names) if named is not None else stated
        if None not in (has, wanted) and has != wanted:
            raise UsageError(f"{name} gives {has} classes and {wanted} are stated; give as many as it has")
        count = wanted if has is None else has
        if count is None:
            raise UsageError(
                f"{name} gives labels, and nothing in it says how many classes there are; give --classes or "
                "--num-classes"
            )
        if named is not None:
            return named
        names = _BINARY if binary else neutral_names(count)
        self._say(f"{count} classes, named {names[0]} and so on (--classes)")
        return ClassSet(names)

    def _graph(self, answer: Answer, spec: ModelSpec) -> ModelProto:
        original, preparation = self.original, self.stated.preparation
        graph = original.model  # the session has its own copy
        simplify(graph, answer.tensor)
        graph, reason = fit_opset(graph)
        if reason is not None:
            self._say(
                f"opset {opset_of(graph)} stays, since onnx cannot convert it to {OPSET} ({reason}): devices "
                f"need ONNX Runtime {needed_onnxruntime(graph)} or later"
            )
        swap = preparation.channel_order != self.stated.color_order
        surround(graph, original.input, answer, spec, swap)
        onnx = require("onnx", extra="export")
        try:
            onnx.checker.check_model(graph)
        except onnx.checker.ValidationError as exc:
            raise ExportError(f"the wrapped graph is not valid ONNX: {first_line(exc)}") from exc
        return graph

    def _compared(self, graph: ModelProto, spec: ModelSpec, answer: Answer, run: Run) -> ModelSpec:
        """The description with the evidence of parity, and with the limits that the original has."""
        multiple = spec.size_multiple

        def expected(images: Frames) -> Expected:
            found = self._expected(answer, run, images)
            if answer.kind == "map" and found.labels is not None:
                _check_labels(found.labels, spec, self.original.name)
            return found

        name = self.original.name
        reference = ParityReference(expected, f"{name} in ONNX Runtime behind numpy preprocessing", name)
        tolerance = _TOLERANCES[spec.precision]
        parity = check_parity(graph, reference, spec, tolerance=tolerance)
        if tolerance is None and parity["min_agreement"] < _INT8_AGREEMENT:
            raise ParityError(
                f"only {parity['min_agreement']:.2%} of the labels equal those of {name} (at least "
                f"{_INT8_AGREEMENT:.0%} are expected of INT8); nothing was written"
            )
        limits = Limits(parity, expected, spec)
        spec = limits.apply()
        self._say(*limits.sentences(name, multiple))
        return spec.with_evidence("parity", parity)

    def _made(self, graph: ModelProto) -> dict[str, Any]:
        return made_now(
            onnx=version_of("onnx"),
            opset=opset_of(graph),
            ir_version=graph.ir_version,
            onnxruntime=f">= {needed_onnxruntime(graph)}",
        )


def _check_labels(labels: Frames, spec: ModelSpec, name: str) -> None:
    """Refuse labels of a map that are no class."""
    wrong = labels[(labels >= spec.num_classes) & (labels != spec.ignore_label)]
    if wrong.size:
        raise UsageError(
            f"{name} gives label {wrong.max()}, and {spec.num_classes} classes are stated; state all of them"
        )
