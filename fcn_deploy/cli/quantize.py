"""``fcn-deploy quantize``: an fp32 artefact -> an INT8 one, with what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.describe import describe, megabytes
from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.calibration.result import QuantizationResult
    from fcn_deploy.calibration.sensitivity import LayerCost


class TargetChoice(str, Enum):
    """What the INT8 file is for."""

    TENSORRT = "tensorrt"
    CPU = "cpu"


class MethodChoice(str, Enum):
    """How ranges are chosen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


def quantize(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="An fp32 .onnx that export wrote.", show_default=False),
    ],
    target: Annotated[
        TargetChoice,
        typer.Option(help="What runs the file: each needs its own graph.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The INT8 .onnx.")],
    calib: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Frames of your camera: a folder of images, or a video."),
    ] = None,
    method: Annotated[MethodChoice, typer.Option(help="How ranges are chosen.")] = MethodChoice.ENTROPY,
    percentile: Annotated[
        float, typer.Option(metavar="P", help="Percent of an activation's values that it keeps.")
    ] = 99.99,
    max_frames: Annotated[int, typer.Option(min=1, metavar="N", help="Frames to take at most.")] = 128,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Resize calibration frames.", show_default="their own size"),
    ] = None,
    float_precision: Annotated[
        options.Precision | None,
        typer.Option(help="Precision of what is not INT8.", show_default="fp16 for tensorrt, fp32 for cpu"),
    ] = None,
    assume_vnni: Annotated[
        bool,
        typer.Option("--assume-vnni", help="8-bit weights: only for CPUs with VNNI; others refuse the file."),
    ] = False,
    float_layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A convolution to leave in higher precision; repeat for more."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, metavar="POINTS", help="Points of mean IU that may be lost; needs --eval."),
    ] = None,
    eval_data: Annotated[
        Path | None,
        typer.Option("--eval", metavar="FOLDER", help="Labelled frames, in the layouts of fcn-deploy eval."),
    ] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What each layer costs: read where it exists, else measured."),
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the sensitivity as an .svg.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A calibration table, in place of --calib.")
    ] = None,
    save_table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the calibration table as JSON.")
    ] = None,
    check_against: options.CheckAgainst = None,
    as_json: options.Json = False,
) -> None:
    """Quantise a model to INT8 on your own frames."""
    options.check_output("--output", output, (".onnx",))
    for option, place, suffixes in (
        ("--sensitivity", sensitivity, (".json",)),
        ("--save-table", save_table, (".json",)),
        ("--chart", chart, (".svg",)),
    ):
        if place:
            options.check_output(option, place, suffixes)
    if output.resolve() == model.resolve():
        raise UsageError(f"--output {output} is the model itself; name another file")
    if (calib is None) == (table is None):
        raise UsageError("give --calib with frames of your camera, or --table; one of the two")
    if max_drop is not None and eval_data is None:
        raise UsageError("--max-drop is measured on labelled frames; give --eval FOLDER with it")
    if eval_data is not None and max_drop is None and sensitivity is None:
        raise UsageError("--eval is for --max-drop or --sensitivity; give one of them with it")
    if chart and not sensitivity:
        raise UsageError("--chart draws the sensitivity report; give --sensitivity FILE with it")
    from fcn_deploy.calibration.quantization import quantize as quantize_model

    with console.steps() as step:
        result = quantize_model(
            model,
            output,
            calib=calib,
            table=table,
            target=target.value,
            method=method.value,
            percentile=percentile,
            max_frames=max_frames,
            size=options.parse_size(size, "--size") if size else None,
            float_precision=float_precision.value if float_precision else None,
            assume_vnni=assume_vnni,
            float_layers=float_layer or (),
            max_drop=max_drop,
            data=eval_data,
            sensitivity=sensitivity,
            save_table=save_table,
            check_against=check_against,
            progress=step,
        )
    if chart and result.sensitivity:
        _draw(result.sensitivity.by_harm(), chart)
    for warning in result.warnings:
        console.warn(warning)
    if as_json:
        console.write_json(result.to_dict())
        return
    _show(result)
    for place in (save_table, sensitivity, chart):
        if place:
            console.Printer().say(f"Wrote {place}" if place != sensitivity else f"Sensitivity in {place}")


def _draw(costs: list[LayerCost], path: Path) -> None:
    from fcn_deploy.bench.chart import Bar, bar_chart
    from fcn_deploy.files import write_text

    bars = [Bar(c.layer, _changed(c), _changed(c), _caption(c)) for c in costs]
    style = "<style>svg{font:13px sans-serif;background:#fff}.bar{fill:#3465a4}.far{stroke:none}</style>"
    drawing = bar_chart("Labels that change when one layer alone runs in INT8, percent", bars)
    start = drawing.index(">") + 1
    opening = drawing[: start - 1] + ' xmlns="http://www.w3.org/2000/svg">'
    write_text(path, opening + style + drawing[start:])


def _changed(cost: LayerCost) -> float:
    """Percent of labels that differ from fp32's."""
    return 100 * (1 - cost.label_agreement)


def _caption(cost: LayerCost) -> str:
    lost = "" if cost.drop is None else f", {cost.drop:+.2f} points of mean IU lost"
    return f"{_changed(cost):.2f} %{lost}"


def _show(result: QuantizationResult) -> None:
    out = console.Printer()
    if result.sensitivity:
        costs = result.sensitivity.by_harm()
        columns = ["INT8 in this layer alone", "", "labels changed", "points lost", "of the work"]
        out.table(columns, _rows(costs), left=2)
    out.say(f"Wrote {result.path} ({megabytes(result.bytes)}) in {result.seconds:.1f} s")
    out.pairs(describe(result.spec), indent=2)
    if result.spec.evidence["quantization"]["target"] == "tensorrt":
        out.say(f"Next: fcn-deploy build-engine {result.path} -o {result.path.with_suffix('.engine')}")
    else:
        out.say(f"Next: fcn-deploy bench {result.path} --backend openvino --backend onnxruntime")


_BAR = 24
"""Characters of the longest bar."""


def _rows(costs: list[LayerCost]) -> Iterator[list[str]]:
    worst = max(_changed(cost) for cost in costs) or 1.0
    for cost in costs:
        yield [
            cost.layer,
            "█" * max(1, round(_BAR * _changed(cost) / worst)),
            f"{_changed(cost):.2f} %",
            "-" if cost.drop is None else f"{cost.drop:.2f}",
            f"{cost.work:.1%}",
        ]
