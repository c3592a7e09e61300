"""``fcn-deploy bench``: how fast artefacts are, and whether their labels stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
            help="pytorch or onnxruntime or tensorrt or openvino, or one that another package installs; "
            "repeat it for several.",
            show_default="the first that reads each artefact and can run",
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
    trust: options.Trust = None,
    option: options.BackendOption = None,
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
    typical_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plain ONNX file that typical user code runs, for a network of your own.",
            show_default=False,
        ),
    ] = None,
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

    typed = {"threads": threads, "cuda_binding": cuda_binding, "trust": trust}
    opened = _options(artefacts, backend, option or [], **typed)
    with console.steps() as step:
        found = benchmark(
            artefacts,
            backends=backend or None,
            sizes=sizes,
            batches=batch or [1],
            rounds=rounds,
            seconds=seconds,
            reference=reference,
            typical=typical,
            typical_model=typical_model,
            frames=frames,
            progress=step,
            **opened,
        )
        step("writing the report")
        if json_file:
            console.write_json(found.to_dict(), json_file)
        if report:
            write_html(found, report, draw_pictures(artefacts, sizes[0], frames, **opened))
    out = console.Printer(to_stderr=options.is_stdout(json_file))
    _show(found, out)
    for place in (json_file, report):
        if place and not options.is_stdout(place):
            out.say(f"Wrote {place}")
    if found.failed:
        raise typer.Exit(1)


def _options(artefacts: list[str], names: list[str] | None, texts: list[str], **typed: Any) -> dict[str, Any]:
    """As :func:`~fcn_deploy.cli.backend_options.options_for`, for all backends that are measured."""
    if not texts:
        return typed
    from fcn_deploy.bench.plan import measured_backends, open_specs, pair
    from fcn_deploy.cli.backend_options import read_options, with_typed

    pairs, _ = pair(open_specs(artefacts), names or None)
    return with_typed(read_options(texts, measured_backends(pairs)), typed)


def _show(found: BenchmarkResult, out: console.Printer) -> None:
    from fcn_deploy.bench.report import remarks, to_device, to_stages, to_table

    for columns, rows in (to_table(found), to_stages(found), to_device(found)):
        if rows:
            out.table(columns, rows)
    for sentence in remarks(found):
        out.say(f"- {sentence}")
