"""``fcn-deploy wrap``: an ONNX file that another tool exported -> an artefact with its description inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.cli.export import report


def wrap(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="An .onnx file: float frames in, logits or labels out.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The .onnx file to write.")],
    mean: Annotated[
        str,
        typer.Option(
            metavar="A,B,C",
            help="Subtracted from frames of 0..255, or of what --scale makes of them; in the channel order "
            "of --trained-on, as in your training code.",
        ),
    ],
    std: Annotated[
        str, typer.Option(metavar="A,B,C", help="Frames are divided by it after the mean; in the same order.")
    ],
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR",
            help="Frames of 0..255 are multiplied by it first, such as 1/255.",
            show_default="1",
        ),
    ] = None,
    trained_on: Annotated[
        options.ColorOrder, typer.Option(help="Channel order of the frames that it was trained on.")
    ] = options.ColorOrder.RGB,
    color: Annotated[
        options.ColorOrder, typer.Option(help="Channel order of the frames handed to the artefact.")
    ] = options.ColorOrder.BGR,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|camvid|voc",
            help="Class names with optional colours: text, CSV or JSON.",
            show_default="numbers; background and foreground for one channel",
        ),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="2 to 255, where MODEL does not tell.", show_default="the model's own"
        ),
    ] = None,
    ignore_label: options.IgnoreLabel = None,
    outputs: Annotated[
        str,
        typer.Option(metavar="LIST", help="labels, and on request confidence and logits."),
    ] = "labels",
    output_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The output of MODEL with logits or labels.",
            show_default="out, else the first",
        ),
    ] = None,
    logits_stride: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="They are smaller than the frame by this factor: logits are resized bilinearly, labels "
            "repeated.",
            show_default="not smaller",
        ),
    ] = None,
    align_corners: Annotated[
        bool, typer.Option("--align-corners", help="Of that resize, as PyTorch has it.")
    ] = False,
    size_multiple: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="MODEL takes multiples of N rows and columns: pad in the graph."
        ),
    ] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Of one channel: class 1 is where its sigmoid is above it.", show_default="0.5"
        ),
    ] = None,
    max_size: options.MaxSize = None,
    note: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Shown wherever the model is named.", show_default=False),
    ] = None,
    check_against: options.CheckAgainst = None,
    as_json: options.Json = False,
) -> None:
    """Make an artefact of an ONNX file that another tool exported, and verify it."""
    from fcn_deploy.export.wrap import SUFFIXES, wrap_model

    options.check_output("-o", output, SUFFIXES)
    with console.steps() as step:
        result = wrap_model(
            model,
            output,
            mean=options.parse_channels(mean, "--mean"),
            std=options.parse_channels(std, "--std"),
            scale=None if scale is None else options.parse_factor(scale, "--scale"),
            trained_on=trained_on.value,
            color_order=color.value,
            classes=classes,
            num_classes=num_classes,
            ignore_label=ignore_label,
            outputs=[name.strip() for name in outputs.split(",")],
            output_name=output_name,
            logits_stride=logits_stride,
            align_corners=align_corners,
            size_multiple=size_multiple,
            threshold=threshold,
            max_size=None if max_size is None else options.parse_size(max_size, "--max-size"),
            note=note,
            check_against=check_against,
            progress=step,
        )
    report(result, as_json)
