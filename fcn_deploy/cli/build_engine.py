"""``fcn-deploy build-engine``: an ONNX artefact -> a TensorRT engine with its sidecar."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.cli.describe import megabytes
from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.runtimes.tensorrt.sidecar import EngineTarget, Sidecar

_MIB = 1 << 20


class Flavor(str, Enum):
    """The lines of TensorRT."""

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
        Flavor, typer.Option(help="auto: TensorRT where it and a GPU are there, else RTX.")
    ] = Flavor.AUTO,
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
    as_json: options.Json = False,
) -> None:
    """Build a TensorRT engine and write what it is beside it."""
    options.check_output("-o", output, (".engine",))
    if timing_cache is not None:
        options.check_output("--timing-cache", timing_cache)
    if fp16 and int8:
        raise UsageError("give --fp16 or --int8, one of the two; with --int8 the rest is fp16 already")
    if calib is not None and not (fp16 or int8):
        raise UsageError("--calib is for --int8 or --fp16; add one of them, or leave it away")
    from fcn_deploy.export.tensorrt.engine import build_engine as build

    begun = time.monotonic()
    with console.steps() as step, tempfile.TemporaryDirectory(prefix="fcn-deploy-") as folder:
        graph = _in_precision(model, Path(folder), fp16, int8, calib, step)
        sidecar = build(
            graph,
            output,
            profiles=profile,
            flavor=flavor.value,
            compute_capabilities=compute_capability or (),
            workspace=None if workspace is None else workspace * _MIB,
            optimization_level=optimization_level,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            dla_core=dla_core,
            timing_cache=timing_cache,
            require_precision="fp16" if fp16 else "int8" if int8 else None,
            progress=step,
        )
    _report(output, sidecar, time.monotonic() - begun, as_json)


def _in_precision(
    model: Path, folder: Path, fp16: bool, int8: bool, calib: Path | None, step: Callable[[str], None]
) -> Path:
    """The graph to build from: the one given, or one made of it in ``folder``."""
    if not (fp16 or int8):
        return model
    from fcn_deploy.runtimes.artefact import read_spec

    precision = read_spec(model).precision
    wanted = "fp16" if fp16 else "int8"
    if precision != "fp32":
        if calib is not None:
            raise UsageError(f"{model} is {precision} already and is taken as it is; leave --calib away")
        return model
    made = folder / f"{model.stem}.{wanted}.onnx"
    if fp16:
        _write_fp16(model, made, calib, step)
        return made
    if calib is None:
        raise UsageError(
            f"{model} is fp32, so --int8 needs frames of your camera: --calib FOLDER (a folder or a video)"
        )
    from fcn_deploy.calibration.quantization import quantize

    quantize(model, made, calib=calib, target="tensorrt", progress=step)
    return made


def _write_fp16(model: Path, made: Path, calib: Path | None, step: Callable[[str], None]) -> None:
    from fcn_deploy.data.folders import ImageFolder
    from fcn_deploy.export.graph.files import read_model, write_model
    from fcn_deploy.export.precision import check_fp16_range, to_fp16
    from fcn_deploy.runtimes.artefact import identity

    graph, spec = read_model(model)
    step("checking the range of each layer in fp16")
    if calib is None:
        batches, source = None, "the synthetic clip"
    else:
        folder = ImageFolder(calib, color_order=spec.color_order)
        batches, source = (frame.image[None] for frame in folder), f"the folder {calib.resolve().name}"
    ranges = check_fp16_range(graph, spec, batches, source)
    evidence = {("parent_parity" if k == "parity" else k): v for k, v in spec.evidence.items()}
    spec = spec.replace(precision="fp16", evidence={**evidence, "fp16_range": ranges})
    spec = spec.with_parent(kind="onnx", name=model.name, sha256=identity(model))
    write_model(to_fp16(graph), spec, made)


def _report(output: Path, sidecar: Sidecar, seconds: float, as_json: bool) -> None:
    if as_json:
        console.write_json(
            {
                "file": str(output),
                "bytes": sidecar.engine_bytes,
                "sha256": sidecar.engine_sha256,
                "seconds": round(seconds, 2),
                "sidecar": json.loads(sidecar.to_json()),
            }
        )
        return
    declared, memory = sidecar.precision["declared"], sidecar.build["memory"]
    layers = ", ".join(f"{count} {kind}" for kind, count in sorted(declared["layers"].items()))
    out = console.Printer()
    out.say(f"Wrote {output} ({megabytes(sidecar.engine_bytes)}) and {output.name}.json in {seconds:.1f} s")
    out.pairs(
        [
            ("built by", sidecar.built_by),
            ("runs on", _target_words(sidecar.target)),
            ("profiles", ", ".join(map(str, sidecar.profiles))),
            (
                "declared",
                f"{declared['precision']}: convolutions {layers}; the engine has "
                f"{declared['engine_to_fp32_weights']:.0%} of the bytes of fp32 weights",
            ),
            ("achieved", _achieved_words(sidecar.precision["achieved"])),
            (
                "memory",
                f"at least {megabytes(memory['weights'] + memory['activations'])} on the device, an estimate "
                f"for {memory['profile'].rpartition(':')[2]}",
            ),
            ("sha256", sidecar.engine_sha256),
            *(("note", note) for note in sidecar.build["notes"]),
        ],
        indent=2,
    )
    out.say(f"Next, where it runs: fcn-deploy bench {output}")


def _target_words(target: EngineTarget) -> str:
    listed = ", ".join(target.compute_capabilities) + (" and later" if target.later else "")
    words = f"compute capability {listed}"
    words = words if target.gpu is None else f"{target.gpu} ({words})"
    return words if target.platform == "any" else f"{words}, {target.platform}"


def _achieved_words(achieved: str | dict[str, int]) -> str:
    if isinstance(achieved, str):
        return achieved
    return ", ".join(f"{count} layers {kind}" for kind, count in sorted(achieved.items()))
