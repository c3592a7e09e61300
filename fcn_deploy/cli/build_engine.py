"""``fcn-deploy build-engine``: an ONNX artefact -> a TensorRT engine with its sidecar."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.describe import megabytes
from fcn_deploy.errors import UsageError

_MIB = 1 << 20


class FlavorChoice(str, Enum):
    """The flavors of TensorRT."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    RTX = "rtx"


def build_engine(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="What export or quantize wrote: .onnx.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="model.engine.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Make an fp32 file fp16 first.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise an fp32 file first; needs --calib. The rest is fp16.")
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Frames of your camera, for --int8 or for the range check of --fp16.",
            show_default="for --fp16 the synthetic clip",
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Batch x height x width, as 1x360x480:1x720x960:4x1080x1920, or one size. Repeat for more.",
            show_default="single frames up to Full HD, tuned for 360x480",
        ),
    ] = None,
    flavor: Annotated[
        FlavorChoice, typer.Option(help="auto: TensorRT where it and a GPU are there, else RTX.")
    ] = FlavorChoice.AUTO,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X.Y",
            help="A GPU to build for, RTX only. Repeat for more.",
            show_default="Ampere and later",
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(min=1, metavar="MIB", help="Scratch memory for kernels.", show_default="TensorRT's own"),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(
            min=0, max=5, metavar="N", help="0 quickest build, 5 best engine.", show_default="TensorRT's own"
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where TensorRT keeps timings for later builds.",
            show_default="beside the engine",
        ),
    ] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="One TensorRT engine for Ampere and later GPUs.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="One TensorRT engine for later versions too.")
    ] = False,
    dla_core: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Place layers on this DLA core (TensorRT, one size; unproven)."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, metavar="S", help="Seconds that the build may take.", show_default="no limit"),
    ] = None,
    check_against: options.CheckAgainst = None,
    as_json: options.Json = False,
) -> None:
    """Build a TensorRT engine and write its sidecar."""
    options.check_output("-o", output, (".engine",))
    if timing_cache is not None:
        options.check_output("--timing-cache", timing_cache)
    from fcn_deploy.building import build_engine as build

    if fp16 and int8:
        raise UsageError("give --fp16 or --int8, one of the two; with --int8 the rest is fp16 already")
    with console.steps() as step:
        result = build(
            model,
            output,
            precision="fp16" if fp16 else "int8" if int8 else None,
            calib=calib,
            profiles=profile,
            flavor=flavor.value,
            compute_capabilities=compute_capability or (),
            workspace=None if workspace is None else workspace * _MIB,
            optimization_level=optimization_level,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            dla_core=dla_core,
            timing_cache=timing_cache,
            timeout=timeout,
            check_against=check_against,
            progress=step,
        )
    if as_json:
        console.write_json(result.to_dict())
        return
    out = console.Printer()
    size = megabytes(result.bytes)
    out.say(f"Wrote {output} ({size}) and {output.name}.json in {result.seconds:.1f} s")
    out.pairs(result.summary()[1:], indent=2)
    out.say(f"Next, where it runs: fcn-deploy bench {output}")
