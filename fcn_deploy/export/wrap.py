"""An ONNX file that somebody else exported -> a deploy graph, checked before it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.answers.checking import require_answers
from fcn_deploy.answers.file import OriginalAnswers
from fcn_deploy.arguments import as_integer, as_names, as_size
from fcn_deploy.classes import ClassSet, neutral_names
from fcn_deploy.errors import ExportError, ModelError, ParityError, UsageError, first_line
from fcn_deploy.export.answer import Answer
from fcn_deploy.export.checkpoint import ExportResult, class_set, output_names
from fcn_deploy.export.evidence import made_now
from fcn_deploy.export.foreign import ForeignNetwork, Reading, open_network
from fcn_deploy.export.graph.files import SINGLE_FILE_LIMIT, weight_bytes, write_model
from fcn_deploy.export.graph.foreign import simplify
from fcn_deploy.export.graph.normal_form import normalise
from fcn_deploy.export.graph.opset import OPSET, fit_opset, needed_onnxruntime, opset_of
from fcn_deploy.export.graph.surround import declare, surround
from fcn_deploy.export.limits import Limits
from fcn_deploy.export.original import Original, channel_order, read_original, stated_preparation
from fcn_deploy.export.parity import TOLERANCE, Expected, Frames, ParityReference, check_parity
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

_TOLERANCES = {"fp32": TOLERANCE, "fp16": 1e-2, "int8": None, "int8+fp16": None}
"""By the precision of the file. Frames that are prepared in another order of operations differ in the last
bit of float32, and where fp16 or INT8 rounds that, now and then by a whole step of theirs."""
_INT8_AGREEMENT = 0.99
"""Smallest share of equal labels for a file that is INT8."""


@dataclass(frozen=True)
class _Wanted:
    """What the artefact is to be, as the user says."""

    named: ClassSet | None
    num_classes: int | None
    ignore_label: int | None
    outputs: tuple[str, ...]
    max_size: tuple[int, int] | None
    note: str | None

    def __post_init__(self) -> None:
        if self.ignore_label is not None and not 0 <= self.ignore_label <= 255:
            raise UsageError(f"ignore_label is from 0 to 255, not {self.ignore_label}")
        if self.num_classes is not None and not 2 <= as_integer("num_classes", self.num_classes, 1) <= 255:
            raise UsageError(f"num_classes is from 2 to 255, not {self.num_classes}")


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
    check_against: str | Path | None = None,
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
        check_against: answers of the original network (``.npz``), as :func:`fcn_deploy.check_answers` takes
            them.
        progress: called with the name of each step as it begins.

    Raises:
        UsageError: an argument cannot be used or does not fit the file, or a file cannot be read or written.
        ModelError: the file is damaged, or is no network that can be wrapped.
        ParityError: the graph does not give what the file gives, or what ``check_against`` says; nothing was
            written.
        ExportError: the graph cannot be converted.
        MissingDependency: onnx or ONNX Runtime is not installed.
    """
    begun = time.monotonic()
    target = check_output(path, SUFFIXES)
    if Path(model).resolve() == target.resolve():
        raise UsageError(f"{target} is the model itself; name another file to write")
    reading = Reading(
        preparation=stated_preparation(mean, std, scale, trained_on),
        color_order=channel_order("color_order", color_order),
        output_name=output_name,
        logits_stride=None if logits_stride is None else as_integer("logits_stride", logits_stride, 2),
        align_corners=align_corners,
        size_multiple=as_integer("size_multiple", size_multiple, 1),
        threshold=threshold,
    )
    wanted = _Wanted(
        named=class_set(classes, num_classes),
        num_classes=num_classes,
        ignore_label=ignore_label,
        outputs=output_names(as_names(outputs)),
        max_size=None if max_size is None else as_size("max_size", max_size),
        note=note,
    )
    step = progress or (lambda _: None)
    originals = None if check_against is None else OriginalAnswers(check_against)
    step("reading the file")
    wrapping = _Wrapping(read_original(model), reading, wanted, step)
    graph, spec = wrapping.run()
    if originals is not None:
        found = require_answers(graph, spec, originals, target.name, progress=step)
        spec = spec.with_evidence("answers", found)
    step("writing")
    spec = write_model(graph, spec, target)
    size, sha256 = target.stat().st_size, sha256_of(target)
    said = tuple(wrapping.said)
    return ExportResult(target, spec, size, sha256, time.monotonic() - begun, said)


class _Wrapping:
    """One call of :func:`wrap_model`: what its steps share."""

    def __init__(
        self, original: Original, reading: Reading, wanted: _Wanted, step: Callable[[str], None]
    ) -> None:
        self.original, self.reading, self.wanted, self.step = original, reading, wanted, step
        self.said: list[str] = []
        """A sentence for each value that was assumed, and each limit of the artefact."""

    def run(self) -> tuple[ModelProto, ModelSpec]:
        """The deploy graph and its description, compared with the original."""
        self.step("running the original")
        with open_network(self.original, self.reading) as network:
            self._say(*network.assumptions)
            self._say_size()
            self._say_answer(network.answer)
            spec = self._describe(network.answer)
            self.step("building the deploy graph")
            graph = self._graph(network.answer, spec)
            spec = spec.replace(precision=declared_precision(graph).precision)
            self.step(f"checking parity with {self.original.name}")
            spec = self._compared(graph, spec, network)
        declare(graph.graph, spec)
        return graph, spec.with_evidence("made", self._made(graph))

    def _say(self, *sentences: str | None) -> None:
        self.said += [sentence for sentence in sentences if sentence is not None]

    def _say_size(self) -> None:
        """What is fixed in the file."""
        batch, height, width = self.original.input.fixed
        if (height, width) != (None, None):
            only = f"frames of {height or 'any height'}x{width or 'any width'} only"
            self._say(f"{only}{', one at a time' if batch else ''}: the size is fixed in the file")
        elif batch is not None:
            self._say("one frame at a time: the batch is fixed in the file")

    def _say_answer(self, answer: Answer) -> None:
        kind = "probabilities" if answer.probabilities else "logits"
        if answer.kind == "channel":
            default = "" if self.reading.threshold is not None else " (--threshold)"
            self._say(
                f"{answer.tensor}, one channel of {kind}, is class 1 where its probability is above "
                f"{answer.threshold:g}{default}"
            )
        if answer.kind == "map" and {"confidence", "logits"} & set(self.wanted.outputs):
            raise UsageError(
                f"{self.original.name} gives labels only, so there is no confidence and there are no logits; "
                "leave --outputs out, or export it without its argmax"
            )

    def _describe(self, answer: Answer) -> ModelSpec:
        """The description, but for what the comparison finds."""
        original, reading, wanted = self.original, self.reading, self.wanted
        stats = reading.preparation
        prepared = to_spec(stats.mean, stats.std, stats.scale, stats.channel_order)
        self._say(*order_warning(stats.mean, stats.scale, stats.channel_order))
        named = self._classes(answer)
        batch, height, width = original.input.fixed
        max_height, max_width = wanted.max_size or (max(4096, height or 1), max(4096, width or 1))
        options = {
            "file": original.name,
            "channel_order": stats.channel_order,
            "output": answer.tensor,
            "output_name": reading.output_name,
            "logits_stride": answer.stride,
            "align_corners": answer.align_corners or None,
        }
        return ModelSpec(
            classes=named.names,
            palette=named.palette,
            architecture=Architecture("onnx", {k: v for k, v in options.items() if v is not None}),
            color_order=reading.color_order,
            ignore_label=self._ignored(named),
            max_height=max_height,
            max_width=max_width,
            fixed_shape=(batch, height, width),
            threshold=answer.threshold,
            size_multiple=reading.size_multiple,
            outputs=wanted.outputs,
            note=wanted.note or "",
            reference=Origin(original.name, "file", original.sha256),
            provenance=({"kind": "original", "name": original.name, "sha256": original.sha256},),
            mean=prepared["mean"],
            std=prepared["std"],
        )

    def _ignored(self, named: ClassSet) -> int:
        if self.wanted.ignore_label is not None:
            return self.wanted.ignore_label
        return named.ignore_label if named.ignore_label is not None else 255

    def _classes(self, answer: Answer) -> ClassSet:
        """The classes stated, which must be as many as the network has; numbers where none are."""
        name, named, stated = self.original.name, self.wanted.named, self.wanted.num_classes
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
        original, reading = self.original, self.reading
        graph = original.model  # the session has its own copy
        simplify(graph, answer.tensor)
        normalise(graph)
        graph, reason = fit_opset(graph)
        if reason is not None:
            self._say(
                f"opset {opset_of(graph)} stays, since onnx cannot convert it to {OPSET} ({reason}): devices "
                f"need ONNX Runtime {needed_onnxruntime(graph)} or later"
            )
        swap = reading.preparation.channel_order != reading.color_order
        surround(graph, original.input, answer, spec, swap)
        onnx = require("onnx", extra="export")
        try:
            if weight_bytes(graph) <= SINGLE_FILE_LIMIT:  # beyond that onnx checks files only
                onnx.checker.check_model(graph)
        except onnx.checker.ValidationError as exc:
            raise ExportError(f"the wrapped graph is not valid ONNX: {first_line(exc)}") from exc
        return graph

    def _compared(self, graph: ModelProto, spec: ModelSpec, network: ForeignNetwork) -> ModelSpec:
        """The description with the evidence of parity, and with the limits that the original has."""
        name = self.original.name

        def expected(images: Frames) -> Expected:
            found = network.expected(images)
            if network.answer.kind == "map" and found.labels is not None:
                _check_labels(found.labels, spec, name)
            return found

        reference = ParityReference(
            expected,
            f"{name} in ONNX Runtime behind numpy preprocessing",
            name,
            neighbours=network.neighbours,
        )
        tolerance = _TOLERANCES[spec.precision]
        parity = check_parity(graph, reference, spec, tolerance=tolerance)
        if tolerance is None and parity["min_agreement"] < _INT8_AGREEMENT:
            raise ParityError(
                f"only {parity['min_agreement']:.2%} of the labels equal those of {name} (at least "
                f"{_INT8_AGREEMENT:.0%} are expected of INT8); nothing was written"
            )
        limits = Limits(parity, expected, spec)
        spec = limits.apply()
        self._say(*limits.sentences(name, spec.size_multiple))
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
