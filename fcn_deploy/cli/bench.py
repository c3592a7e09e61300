"""``fcn-deploy bench``: how fast artefacts are, and whether their labels stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options

if TYPE_CHECKING:
    from fcn_deploy.bench.results import BenchmarkResult


def bench(
    artefacts: options.Artefacts,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="pytorch or onnxruntime or tensorrt or openvino; repeat it for several.",
            show_default="by each file's suffix",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Of the frames; repeat it for several.", show_default="360x480"),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Frames at a time; repeat it for several.", show_default="1"),
    ] = None,
    threads: options.Threads = None,
    cuda_binding: options.CudaBinding = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often each row is timed.")] = 10,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="Timed seconds of each row, over all rounds.")
    ] = 10.0,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|bundled",
            help="fp32 checkpoint that labels are compared with.",
            show_default="from each artefact's provenance",
        ),
    ] = None,
    typical: Annotated[
        bool,
        typer.Option("--typical", help="Measure typical user code too: float frames, numpy around it."),
    ] = False,
    frames: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Images or a video.", show_default="the synthetic clip"),
    ] = None,
    json_file: options.JsonFile = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an HTML page with charts and pictures."),
    ] = None,
) -> None:
    """Measure artefacts in turns, each in a process of its own."""
    sizes = [options.parse_size(text, "--size") for text in size or ["360x480"]]
    options.check_json(json_file)
    if report:
        options.check_output("--report", report, (".html", ".htm"))
    from fcn_deploy.bench.method import benchmark
    from fcn_deploy.bench.pictures import draw_pictures
    from fcn_deploy.bench.report import write_html

    with console.steps() as step:
        found = benchmark(
            artefacts,
            backends=backend or None,
            sizes=sizes,
            batches=batch or [1],
            threads=threads,
            cuda_binding=cuda_binding,
            rounds=rounds,
            seconds=seconds,
            reference=reference,
            typical=typical,
            frames=frames,
            progress=step,
        )
        step("writing the report")
        if json_file:
            console.write_json(found.to_dict(), json_file)
        if report:
            write_html(found, report, draw_pictures(artefacts, sizes[0], frames, cuda_binding=cuda_binding))
    out = console.Printer(to_stderr=options.is_stdout(json_file))
    _show(found, out)
    for place in (json_file, report):
        if place and not options.is_stdout(place):
            out.say(f"Wrote {place}")
    if found.failed:
        raise typer.Exit(1)


def _show(found: BenchmarkResult, out: console.Printer) -> None:
    from fcn_deploy.bench.report import remarks, to_device, to_stages, to_table

    for columns, rows in (to_table(found), to_stages(found), to_device(found)):
        if rows:
            out.table(columns, rows)
    for sentence in remarks(found):
        out.say(f"- {sentence}")
