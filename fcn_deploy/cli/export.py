"""``fcn-deploy export``: a checkpoint -> an artefact with its description and its evidence inside."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.describe import describe, megabytes
from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.export.checkpoint import ExportResult


def export(
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="model.onnx, model.pt2 or model.safetensors."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|bundled|random",
            help="A checkpoint of any file type, the bundled one, or seeded random weights.",
            show_default="with --model, those that it builds",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A network of your own: package.module:function or file.py:function. Runs that code.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which weights, where the file holds several.", show_default=False),
    ] = None,
    variant: Annotated[
        options.VariantChoice | None,
        typer.Option(help="The network; needed where the checkpoint does not say it."),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(metavar="N", help="2 to 255.", show_default="the checkpoint's own")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|camvid|voc",
            help="Class names with optional colours: text, CSV or JSON.",
            show_default="the checkpoint's own, else numbers",
        ),
    ] = None,
    ignore_label: options.IgnoreLabel = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z",
            help="Subtracted after --scale; in the channel order of --trained-on.",
            show_default="the checkpoint's own",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z",
            help="Frames are divided by it after the mean; in the same order.",
            show_default="the checkpoint's own",
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Frames of 0..255 are multiplied with it first, as 1/255.",
            show_default="1",
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
        options.ColorOrder | None,
        typer.Option(
            help="Channel order of the frames that it was trained on.",
            show_default="the checkpoint's own; rgb with --model",
        ),
    ] = None,
    size_multiple: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Frames are padded in the graph to a multiple of it, for --model."
        ),
    ] = None,
    logits_stride: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Logits are smaller than the frame by this factor, for --model."
        ),
    ] = None,
    align_corners: Annotated[
        bool, typer.Option("--align-corners", help="Resize those logits with aligned corners.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="For one channel of logits: class 1 is where its sigmoid is above it.",
            show_default="0.5",
        ),
    ] = None,
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
    max_size: options.MaxSize = None,
    check_against: options.CheckAgainst = None,
    as_json: options.Json = False,
) -> None:
    """Make an artefact of a checkpoint and verify it."""
    from fcn_deploy.export.checkpoint import SUFFIXES, export_model
    from fcn_deploy.export.request import FACTORY_WEIGHTS

    options.check_output("-o", output, SUFFIXES)
    if weights is None and model is None:
        raise UsageError("give --weights, or --model for a network of your own")
    # What a module or its factory prints is not part of the report.
    with console.steps() as step, contextlib.redirect_stdout(sys.stderr):
        result = export_model(
            FACTORY_WEIGHTS if weights is None else weights,
            output,
            model=model,
            key=key,
            variant=variant.value if variant else None,
            num_classes=num_classes,
            classes=classes,
            ignore_label=ignore_label,
            mean=None if mean is None else options.parse_channels(mean, "--mean"),
            std=None if std is None else options.parse_channels(std, "--std"),
            scale=None if scale is None else options.parse_factor(scale, "--scale"),
            color_order=color.value if color else None,
            trained_on=trained_on.value if trained_on else None,
            size_multiple=size_multiple,
            logits_stride=logits_stride,
            align_corners=align_corners,
            threshold=threshold,
            outputs=None if outputs is None else [name.strip() for name in outputs.split(",")],
            max_size=None if max_size is None else options.parse_size(max_size, "--max-size"),
            learned_upscore=learned_upscore,
            width=width,
            fc_channels=fc_channels,
            seed=seed,
            precision=precision.value,
            calib=calib,
            keep_fp32=keep_fp32,
            check_against=check_against,
            progress=step,
        )
    report(result, as_json)


def report(result: ExportResult, as_json: bool) -> None:
    """Print what was written, and what was assumed."""
    if as_json:
        console.write_json(result.to_dict())
        return
    out = console.Printer()
    out.say(f"Wrote {result.path} ({megabytes(result.bytes)}) in {result.seconds:.1f} s")
    out.pairs(describe(result.spec), indent=2)
    for sentence in result.assumptions:
        out.say(f"  assumed: {sentence}")
    out.say(f"Next: fcn-deploy run {result.path} SOURCE --overlay overlay.mp4")
