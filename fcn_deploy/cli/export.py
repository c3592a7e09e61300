"""``fcn-deploy export``: a checkpoint -> an artefact with its description and its evidence inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.describe import describe, megabytes

if TYPE_CHECKING:
    from fcn_deploy.export.checkpoint import ExportResult


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
        str | None,
        typer.Option(
            metavar="FILE|camvid|voc",
            help="Class names with optional colours: text, CSV or JSON.",
            show_default="the checkpoint's own, else numbers",
        ),
    ] = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=255,
            metavar="N",
            help="Label of pixels that are not scored.",
            show_default="11 for camvid, else 255",
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
    """Make an artefact of a checkpoint and verify it."""
    from fcn_deploy.export.checkpoint import SUFFIXES, export_model

    options.check_output("-o", output, SUFFIXES)
    with console.steps() as step:
        result = export_model(
            weights,
            output,
            variant=variant.value if variant else None,
            num_classes=num_classes,
            classes=classes,
            ignore_label=ignore_label,
            mean=None if mean is None else options.parse_channels(mean, "--mean"),
            std=None if std is None else options.parse_channels(std, "--std"),
            color_order=color.value if color else None,
            trained_on=trained_on.value,
            outputs=None if outputs is None else [name.strip() for name in outputs.split(",")],
            max_size=None if max_size is None else options.parse_size(max_size, "--max-size"),
            learned_upscore=learned_upscore,
            width=width,
            fc_channels=fc_channels,
            seed=seed,
            precision=precision.value,
            calib=calib,
            keep_fp32=keep_fp32,
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
