"""Checkpoint, network or module -> artefact, with description and evidence inside: ``export_model``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.arguments import as_integer, as_names, as_size
from fcn_deploy.classes import ClassSet
from fcn_deploy.classes.reading import named_classes
from fcn_deploy.contract import OUTPUTS
from fcn_deploy.describe import describe, file_facts, file_row, triple
from fcn_deploy.errors import UsageError
from fcn_deploy.export.preparation import check_statistics, order_warning, to_spec
from fcn_deploy.export.request import Request
from fcn_deploy.files import check_output, input_file, sha256_of
from fcn_deploy.lazy import require
from fcn_deploy.results import Result, Rows
from fcn_deploy.spec import ModelSpec, Triple

if TYPE_CHECKING:
    from torch import nn

    from fcn_deploy.model.checkpoints import CheckpointInfo
    from fcn_deploy.model.network import Network

SUFFIXES = (".onnx", ".pt2", ".safetensors")
PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, repr=False)
class ExportResult(Result):
    """What :func:`export_model` wrote."""

    path: Path
    """The artefact."""
    spec: ModelSpec
    """The description inside it, with the evidence."""
    bytes: int
    """Of the file; weights beside it, beyond 2 GB, are not counted."""
    sha256: str
    """Of the file."""
    seconds: float
    """From the call until the file was written."""
    assumptions: tuple[str, ...]
    """A sentence for each value in the description that was assumed, not stated."""

    def summary(self) -> Rows:
        return [file_row(self), *describe(self.spec), *(("assumed", text) for text in self.assumptions)]

    def to_dict(self) -> dict[str, Any]:
        """``file``, ``bytes``, ``sha256``, ``seconds``, ``assumed``, ``spec``."""
        return {
            **file_facts(self),
            "assumed": list(self.assumptions),
            "spec": json.loads(self.spec.to_json()),
        }


def export_model(
    checkpoint: str | Path | nn.Module,
    path: str | Path,
    *,
    model: str | nn.Module | None = None,
    key: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    classes: str | Path | Sequence[str] | None = None,
    ignore_label: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    scale: float | None = None,
    color_order: str | None = None,
    trained_on: str | None = None,
    size_multiple: int | None = None,
    logits_stride: int | None = None,
    align_corners: bool = False,
    threshold: float | None = None,
    outputs: str | Sequence[str] | None = None,
    max_size: tuple[int, int] | None = None,
    note: str | None = None,
    spec: ModelSpec | None = None,
    learned_upscore: bool = False,
    width: int | None = None,
    fc_channels: int | None = None,
    seed: int | None = None,
    precision: str = "fp32",
    calib: str | Path | None = None,
    keep_fp32: bool = False,
    check_against: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Make an artefact of a checkpoint or a module, and verify it before it is written.

    Args:
        checkpoint: a file of weights, ``bundled``, ``random``, ``""`` for the weights that the
            factory ``model`` gives its module, or a network that is in memory: one of this
            package's or any ``torch.nn.Module`` that takes float ``[N, 3, H, W]`` and gives logits
            ``[N, classes, h, w]`` (as a tensor, the first of a tuple, or under ``out`` in a mapping).
        path: ``.onnx`` for a deploy graph, ``.pt2`` for an exported program that the PyTorch backend runs, or
            ``.safetensors`` for weights of a network that this package can build.
        model: the module that the weights of ``checkpoint`` belong to, or how to build it:
            ``package.module:function`` or ``file.py:function``, which runs that code. None where the weights
            say it by their keys.
        key: which weights, where the file holds several: such as ``ema.shadow``.
        variant: the FCN-8s, needed where the checkpoint does not say it.
        num_classes: what the checkpoint must have; how many random weights get.
        classes: names by class id, a file of them, or ``camvid`` or ``voc``; None uses the names in the
            checkpoint, else numbers.
        ignore_label: label of pixels that are not scored, 0 to 255.
        mean: subtracted from frames in training; in the channel order of the training. None uses that of the
            checkpoint's layout; for a module ImageNet's, or 0 where ``scale`` is given.
        std: divided by after the mean; in the same order. None as for ``mean``, but 1 where ``scale`` is
            given.
        scale: what frames of 0 to 255 were multiplied with before that, such as 1/255; None stands for 1.
        color_order: ``bgr`` or ``rgb``, of the frames handed to the artefact.
        trained_on: ``bgr`` or ``rgb``, of the frames in training; None uses what the layout of the checkpoint
            says, ``rgb`` for modules, else ``bgr``.
        size_multiple: the module takes multiples of so many rows and columns only; frames are padded inside
            the graph.
        logits_stride: the module's logits are smaller than the frame by this factor, and are resized
            bilinearly.
        align_corners: of that resize.
        threshold: for a module with one channel of logits: class 1 is where its sigmoid is above it; by
            default 0.5.
        outputs: ``labels`` (always there), and on request ``confidence`` and ``logits``.
        max_size: height and width of the largest frame that is accepted.
        note: shown wherever the model is named.
        spec: a description to start from, for a module: its classes, colours, colour order, mean and std (B,
            G, R, for frames of 0 to 255), outputs, limits and note. Other arguments win over it.
        learned_upscore: keep upscores as transposed convolutions.
        width: channels of conv1, for random weights.
        fc_channels: channels of fc6 and fc7, for random weights.
        seed: of random weights.
        precision: ``fp32`` or ``fp16``.
        calib: images or a video for the range check of fp16; None uses the synthetic clip.
        keep_fp32: leave layers that overflow fp16 in fp32 instead of failing.
        check_against: answers of the original network (``.npz``), as :func:`fcn_deploy.check_answers` takes
            them; for ``.onnx`` files.
        progress: called with the name of each step as it begins.

    Raises:
        UsageError: an argument cannot be used, a file cannot be read or written, or the variant is
            neither given nor known.
        ModelError: the checkpoint is damaged or does not fit, or the module fails or gives something else.
        SourceError: the frames for the range check cannot be used.
        ParityError: the graph does not give what the network gives, or what ``check_against`` says; nothing
            was written.
        ExportError: the exporter failed, or a layer overflows fp16.
        MissingDependency: PyTorch or onnx is not installed.
    """
    begun = time.monotonic()
    target = check_output(path, SUFFIXES)
    for name, value, minimum in (
        *(("width", width, 1), ("fc_channels", fc_channels, 1), ("seed", seed, 0)),
        *(("size_multiple", size_multiple, 1), ("logits_stride", logits_stride, 2)),
    ):
        if value is not None:
            as_integer(name, value, minimum)
    check_statistics(mean, std, scale)
    _refuse_output(checkpoint, target, precision, calib, keep_fp32, check_against)
    named = class_set(classes, num_classes)
    request = Request(
        checkpoint=checkpoint,
        model=model,
        key=key,
        trained_on=trained_on,
        fcn8s={"variant": variant, "learned_upscore": learned_upscore or None},
        num_classes=num_classes,
        classes=None if named is None else len(named.names),
        random={"width": width, "fc_channels": fc_channels, "seed": seed},
        module={
            "size_multiple": size_multiple,
            "logits_stride": logits_stride,
            "align_corners": align_corners or None,
            "threshold": threshold,
        },
        spec=spec,
    )
    request.check()
    stated = _stated(
        named,
        ignore_label=ignore_label,
        color_order=color_order,
        outputs=outputs,
        max_size=max_size,
        note=note,
    )
    step = progress or (lambda _: None)
    step("reading the weights")
    require("torch", extra="export")
    from fcn_deploy.export.opening import open_network

    network, info = open_network(request)
    if scale is not None and mean is None and info.known_by == "module" and spec is None:
        mean = (0.0, 0.0, 0.0)
    stated |= to_spec(mean, std, scale, info.trained_on)
    described, assumptions = _describe(request, network, info, stated)
    assumptions += order_warning(mean, scale, info.trained_on)
    step("writing")
    half = {"calib": calib, "keep_fp32": keep_fp32}
    written = _write(network, described, target, precision, {**half, "check_against": check_against}, step)
    size, sha256 = target.stat().st_size, sha256_of(target)
    return ExportResult(target, written, size, sha256, time.monotonic() - begun, assumptions)


_MAX_SIZE = ("max_height", "max_width")


def _stated(
    named: ClassSet | None,
    *,
    ignore_label: int | None,
    outputs: str | Sequence[str] | None,
    max_size: tuple[int, int] | None,
    **others: str | None,
) -> dict[str, Any]:
    """The fields of the description that the caller stated. Raises UsageError."""
    if ignore_label is None and named is not None:
        ignore_label = named.ignore_label
    fields: dict[str, Any] = {"ignore_label": ignore_label, **others}
    if named is not None:
        fields |= {"classes": named.names, "palette": named.palette or None}
    if outputs is not None:
        fields["outputs"] = output_names(as_names(outputs))
    if max_size is not None:
        fields |= dict(zip(_MAX_SIZE, as_size("max_size", max_size), strict=True))
    return {key: value for key, value in fields.items() if value is not None}


def _write(
    network: Network,
    spec: ModelSpec,
    target: Path,
    precision: str,
    onnx_only: dict[str, Any],
    step: Callable[[str], None],
) -> ModelSpec:
    """Write the artefact; returns its description as written."""
    kind = target.suffix.lower()
    if kind == ".safetensors":
        from fcn_deploy.model.checkpoints import save_safetensors
        from fcn_deploy.model.checkpoints.networks import can_build

        if not can_build(network):
            raise UsageError(
                f"{spec.architecture.name} is built by code of your own, which a .safetensors file does not "
                "hold; write an .onnx or .pt2 file"
            )
        return save_safetensors(network, spec.replace(precision=precision), target, dtype=precision)
    if kind == ".pt2":
        from fcn_deploy.export.program import export_program

        return export_program(network, spec, target, progress=step)
    from fcn_deploy.export.onnx import export_onnx

    return export_onnx(network, spec, target, precision=precision, progress=step, **onnx_only)


def _refuse_output(
    checkpoint: object,
    target: Path,
    precision: str,
    calib: str | Path | None,
    keep_fp32: bool,
    check_against: str | Path | None,
) -> None:
    """Refuse what does not go with the file to write."""
    kind = target.suffix.lower()
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be fp32 or fp16, not {precision!r}; INT8 is made by quantize")
    if precision == "fp16" and kind == ".pt2":
        raise UsageError(".pt2 programs are fp32; write an .onnx file for fp16")
    if isinstance(checkpoint, (str, Path)) and Path(checkpoint).resolve() == target.resolve():
        raise UsageError(f"{target} is the checkpoint itself; name another file to write")
    for option, given in (("--calib", calib is not None), ("--keep-fp32", keep_fp32)):
        if given and (precision != "fp16" or kind != ".onnx"):
            raise UsageError(f"{option} is for --precision fp16 and an .onnx file; leave it out")
    if check_against is not None:
        if kind != ".onnx":
            raise UsageError("--check-against is for an .onnx file; check others with: fcn-deploy check")
        input_file(check_against, "answers file")


def output_names(names: Sequence[str]) -> tuple[str, ...]:
    """The outputs wanted, in the contract's order, labels always among them. Raises UsageError."""
    for name in names:
        if name not in OUTPUTS:
            raise UsageError(f"--outputs {name or '(empty)'}: choose from {', '.join(OUTPUTS)}")
    # Labels are always an output.
    return tuple(name for name in OUTPUTS if name == "labels" or name in names)


def class_set(classes: str | Path | Sequence[str] | None, count: int | None) -> ClassSet | None:
    """The classes that a user names, as many as ``count`` where both are given. Raises UsageError."""
    if classes is None:
        return None
    if isinstance(classes, (str, Path)):
        named, source = named_classes(classes), str(classes)
    else:
        named, source = ClassSet(tuple(classes)), "the list of names"
    if count not in (None, len(named.names)):
        raise UsageError(f"{source} names {len(named.names)} classes, and --num-classes says {count}")
    return named


_OWN_EVIDENCE = ("parity", "fp16_range", "made", "answers")
"""What export verifies itself: a parent's records of these are not copied."""


def _describe(
    request: Request, network: Network, info: CheckpointInfo, stated: dict[str, Any]
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The description, and a sentence for each value in it that was assumed."""
    from fcn_deploy.model.checkpoints import describe as spec_of

    spec = spec_of(network, info, **stated)
    parent, *ancestors = spec.provenance
    if info.kind != "random":
        parent = {**parent, "trained_on": info.trained_on}
    spec = spec.replace(
        provenance=(parent, *ancestors),
        architecture=network.architecture,
        evidence={kind: found for kind, found in spec.evidence.items() if kind not in _OWN_EVIDENCE},
    )
    if info.kind == "random":
        return spec, ()
    return spec, (*info.assumptions, *_unstated(spec, request, info, stated))


def _unstated(
    spec: ModelSpec, request: Request, info: CheckpointInfo, stated: dict[str, Any]
) -> Iterator[str]:
    """What was assumed where a checkpoint without a description does not say it."""
    from fcn_deploy.model.checkpoints.layout import IMAGENET_MEAN_BGR

    if info.spec is not None or request.spec is not None:
        return

    def typed(values: Triple) -> str:
        """As the options take it: in the channel order of the training."""
        return triple(values if info.trained_on == "bgr" else values[::-1])

    if "classes" not in stated:
        names = "numbers for names"
        if info.classes is not None:
            names = "the names in its metadata"
        elif spec.threshold is not None:
            names = f"the names {' and '.join(spec.classes)}"
        yield f"{spec.num_classes} classes with {names} (--classes)"
    if "mean" not in stated:
        whose = "ImageNet's mean" if spec.mean == IMAGENET_MEAN_BGR else "the mean of its training"
        yield f"frames minus {typed(spec.mean)}, {whose} (--mean)"
    if "std" not in stated:
        yield f"and then divided by {typed(spec.std)} (--std)"
