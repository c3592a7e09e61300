"""``fcn-deploy export``: a checkpoint -> an artefact with its description and its evidence inside."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcn_deploy.classes import CAMVID_CLASSES, VOC_CLASSES, Color
from fcn_deploy.cli import console, options
from fcn_deploy.cli.describe import describe, megabytes, triple
from fcn_deploy.errors import UsageError
from fcn_deploy.spec import OUTPUTS, ModelSpec

if TYPE_CHECKING:
    from fcn_deploy.model.checkpoints.describe import CheckpointInfo
    from fcn_deploy.model.fcn8s import FCN8s

_OWN_EVIDENCE = ("parity", "fp16_range", "made")
"""What export verifies anew, so that a parent's record of it must not be taken over."""


@dataclass(frozen=True)
class _Request:
    """The options of one call that describe the model."""

    weights: str
    variant: str | None
    num_classes: int | None
    classes: Path | None
    ignore_label: int | None
    mean: str | None
    std: str | None
    outputs: str | None
    color: str | None
    trained_on: str
    learned_upscore: bool
    width: int | None
    fc_channels: int | None
    seed: int | None
    max_size: str | None


def export(
    weights: Annotated[
        str,
        typer.Option(
            metavar="PATH|bundled|random",
            help="A checkpoint (.pth, .pt, .bin, .safetensors), the bundled one, or seeded random weights.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="model.onnx or model.safetensors."),
    ],
    variant: Annotated[
        options.VariantChoice | None,
        typer.Option(help="The network; needed where the checkpoint does not say it."),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(metavar="N", help="2 to 255.", show_default="the checkpoint's own")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Class names, one a line, each with an optional colour R G B."),
    ] = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=255,
            metavar="N",
            help="Label of pixels that are not scored.",
            show_default="11 for CamVid's classes, else 255",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="B,G,R", help="Subtracted from frames of 0..255.", show_default="the checkpoint's own"
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="B,G,R",
            help="Frames are divided by it after the mean.",
            show_default="the checkpoint's own",
        ),
    ] = None,
    precision: Annotated[options.Precision, typer.Option(help="Of weights and activations.")] = (
        options.Precision.FP32
    ),
    calib: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Images or a video for the range check of fp16.",
            show_default="the synthetic clip",
        ),
    ] = None,
    keep_fp32: Annotated[
        bool, typer.Option("--keep-fp32", help="Leave layers that overflow fp16 in fp32 instead of failing.")
    ] = False,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="labels, and on request confidence and logits.", show_default="labels"
        ),
    ] = None,
    color: Annotated[
        options.ColorOrder | None,
        typer.Option(
            help="Channel order of the frames handed to the artefact.", show_default="bgr, as OpenCV has it"
        ),
    ] = None,
    trained_on: Annotated[
        options.ColorOrder, typer.Option(help="Channel order of the frames that it was trained on.")
    ] = options.ColorOrder.BGR,
    learned_upscore: Annotated[
        bool, typer.Option("--learned-upscore", help="Keep upscores as transposed convolutions.")
    ] = False,
    width: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Channels of conv1, for random weights.")
    ] = None,
    fc_channels: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Channels of fc6 and fc7, for random weights.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of random weights.", show_default="0")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="The largest frame that is accepted.", show_default="4096x4096"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make an artefact of a checkpoint and prove it."""
    begun = time.monotonic()
    request = _Request(
        weights=weights,
        variant=variant.value if variant else None,
        num_classes=num_classes,
        classes=classes,
        ignore_label=ignore_label,
        mean=mean,
        std=std,
        outputs=outputs,
        color=color.value if color else None,
        trained_on=trained_on.value,
        learned_upscore=learned_upscore,
        width=width,
        fc_channels=fc_channels,
        seed=seed,
        max_size=max_size,
    )
    _refuse(request, output, precision.value, calib, keep_fp32)
    stated = _stated(request)
    with console.steps() as step:
        step("reading the weights")
        model, info = _load(request, len(stated.get("classes", ())) or None)
        spec, assumed = _make_spec(request, model, info, stated)
        step("writing")
        if output.suffix == ".safetensors":
            written = _write_weights(model, spec, output, precision.value)
        else:
            written = _write_graph(model, spec, output, precision.value, calib, keep_fp32, step)
    _report(output, written, assumed, time.monotonic() - begun, as_json)


def _refuse(request: _Request, output: Path, precision: str, calib: Path | None, keep_fp32: bool) -> None:
    """Wrong use that can be told before anything heavy is imported."""
    options.check_output("-o", output, (".onnx", ".safetensors"))
    if Path(request.weights).resolve() == output.resolve():
        raise UsageError(f"{output} is the checkpoint itself; name another file to write")
    if calib is not None and (precision != "fp16" or output.suffix != ".onnx"):
        raise UsageError("--calib is for --precision fp16 and an .onnx file; leave it away")
    if keep_fp32 and (precision != "fp16" or output.suffix != ".onnx"):
        raise UsageError("--keep-fp32 is for --precision fp16 and an .onnx file; leave it away")
    for option, value in (
        ("--width", request.width),
        ("--fc-channels", request.fc_channels),
        ("--seed", request.seed),
    ):
        if value is not None and request.weights != "random":
            raise UsageError(f"{option} is for --weights random; a checkpoint has its own")


def _stated(request: _Request) -> dict[str, Any]:
    """The fields of ModelSpec that the options set, read and checked on their own."""
    stated: dict[str, Any] = {}
    if request.classes is not None:
        stated["classes"], stated["palette"] = read_classes(request.classes)
        if request.num_classes not in (None, len(stated["classes"])):
            raise UsageError(
                f"{request.classes} names {len(stated['classes'])} classes, "
                f"and --num-classes says {request.num_classes}"
            )
    if request.mean is not None:
        stated["mean"] = options.parse_channels(request.mean, "--mean")
    if request.std is not None:
        stated["std"] = options.parse_channels(request.std, "--std")
    if request.outputs is not None:
        stated["outputs"] = _parse_outputs(request.outputs)
    if request.max_size is not None:
        stated["max_height"], stated["max_width"] = options.parse_size(request.max_size, "--max-size")
    if request.ignore_label is not None:
        stated["ignore_label"] = request.ignore_label
    if request.color is not None:
        stated["color_order"] = request.color
    return stated


def _parse_outputs(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OUTPUTS:
            raise options.unknown_choice("--outputs", name or "(empty)", OUTPUTS)
    # The labels are what the graph is for; they are always there.
    return tuple(name for name in OUTPUTS if name == "labels" or name in names)


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Class names and colours of a text file: ``NAME [R G B]`` a line, in the order of the ids.

    Returns:
        Names, and one R, G, B colour (0 to 255) a name, or no colours at all.

    Raises:
        UsageError: it cannot be read, a colour is out of range, or only some lines have one.
    """
    from fcn_deploy.files import input_file

    try:
        lines = input_file(path, "class names").read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path} is not a UTF-8 text file; expected one class name a line") from exc
    names: list[str] = []
    palette: list[Color] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(.*\S)\s+(\d+)\s+(\d+)\s+(\d+)", line.strip())
        names.append(match[1] if match else line.strip())
        if match:
            color = (int(match[2]), int(match[3]), int(match[4]))
            if max(color) > 255:
                raise UsageError(f"{path}, line {number}: colours are from 0 to 255, found {color}")
            palette.append(color)
    if palette and len(palette) != len(names):
        raise UsageError(f"{path}: {len(palette)} of {len(names)} lines have a colour; give all or none")
    return tuple(names), tuple(palette)


def _load(request: _Request, named: int | None) -> tuple[FCN8s, CheckpointInfo]:
    """The network; ``named`` is how many classes the --classes file has."""
    from fcn_deploy.lazy import require

    require("torch", extra="export")
    from fcn_deploy.model.checkpoints.layouts import load_checkpoint
    from fcn_deploy.model.checkpoints.random import random_model

    if request.weights == "random":
        return random_model(
            request.num_classes or named or 21,
            request.variant or "fcn8s",
            width=request.width,
            fc_channels=request.fc_channels,
            learned_upscore=request.learned_upscore,
            seed=request.seed or 0,
        )
    return load_checkpoint(
        request.weights,
        variant=request.variant,
        num_classes=request.num_classes,
        learned_upscore=request.learned_upscore or None,
        trained_on=request.trained_on,
    )


def _make_spec(
    request: _Request, model: FCN8s, info: CheckpointInfo, stated: dict[str, Any]
) -> tuple[ModelSpec, list[str]]:
    """The description, and a sentence for each thing in it that nobody stated."""
    from fcn_deploy.model.checkpoints.describe import describe as describe_checkpoint

    spec = describe_checkpoint(model, info, **stated)
    parent, *ancestors = spec.provenance
    if request.trained_on == "rgb":
        if info.spec is not None:
            raise UsageError(f"{request.weights} says itself how it reads frames; leave --trained-on away")
        parent = {**parent, "trained_on": "rgb"}
    spec = spec.replace(
        provenance=(parent, *ancestors),
        learned_upscore=model.learned_upscore,
        evidence={kind: found for kind, found in spec.evidence.items() if kind not in _OWN_EVIDENCE},
    )
    return spec, [] if info.kind == "random" else [*info.assumptions, *_unstated(spec, info, stated)]


def _unstated(spec: ModelSpec, info: CheckpointInfo, stated: dict[str, Any]) -> Iterator[str]:
    """What a checkpoint without a description leaves open, and what was taken for it."""
    if info.spec is not None:
        return
    if "classes" not in stated:
        known = {CAMVID_CLASSES: "CamVid's names", VOC_CLASSES: "PASCAL VOC's names"}
        yield f"{spec.num_classes} classes with {known.get(spec.classes, 'numbers for names')} (--classes)"
    if "mean" not in stated:
        yield f"frames minus {triple(spec.mean)}, the mean of its training (--mean)"
    if "std" not in stated:
        yield f"and then divided by {triple(spec.std)} (--std)"


def _write_weights(model: FCN8s, spec: ModelSpec, output: Path, precision: str) -> ModelSpec:
    from fcn_deploy.model.checkpoints.native import save_safetensors

    spec = spec.replace(precision=precision)
    save_safetensors(model, spec, output, dtype=precision)
    return spec


def _write_graph(
    model: FCN8s,
    spec: ModelSpec,
    output: Path,
    precision: str,
    calib: Path | None,
    keep_fp32: bool,
    step: Callable[[str], None],
) -> ModelSpec:
    from fcn_deploy.export.onnx import export_onnx

    if calib is None:
        return export_onnx(model, spec, output, precision=precision, keep_fp32=keep_fp32, progress=step)
    from fcn_deploy.calibration.images import CalibrationFrames

    return export_onnx(
        model,
        spec,
        output,
        precision=precision,
        calib=CalibrationFrames(calib, spec),
        calib_source=calib.resolve().name,
        keep_fp32=keep_fp32,
        progress=step,
    )


def _report(output: Path, spec: ModelSpec, assumed: list[str], seconds: float, as_json: bool) -> None:
    size = output.stat().st_size
    if as_json:
        from fcn_deploy.files import sha256_of

        console.write_json(
            {
                "file": str(output),
                "bytes": size,
                "sha256": sha256_of(output),
                "seconds": round(seconds, 2),
                "assumed": assumed,
                "spec": json.loads(spec.to_json()),
            }
        )
        return
    out = console.Printer()
    out.say(f"Wrote {output} ({megabytes(size)}) in {seconds:.1f} s")
    out.pairs(describe(spec), indent=2)
    for sentence in assumed:
        out.say(f"  assumed: {sentence}")
    out.say(f"Next: fcn-deploy run {output} SOURCE --overlay overlay.mp4")
