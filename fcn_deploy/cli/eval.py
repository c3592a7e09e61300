"""``fcn-deploy eval``: the paper's four metrics of artefacts on a labelled folder, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.evaluation import Evaluation


def evaluate(
    artefacts: options.Artefacts,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Images with FOLDERannot/ beside it, or images/ and labels/ in it.",
            show_default=False,
        ),
    ],
    backend: options.Backend = None,
    device: options.Device = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    allow_fallback: options.AllowFallback = None,
    cuda_binding: options.CudaBinding = None,
    expect_sha256: options.ExpectSha256 = None,
    trust: options.Trust = None,
    option: options.BackendOption = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            min=0, max=255, metavar="N", help="Label that is not scored.", show_default="the artefact's own"
        ),
    ] = None,
    simulate_fp16: Annotated[
        bool,
        typer.Option(
            "--simulate-fp16",
            help="Round as fp16 hardware does where an .onnx holds fp16; a CPU computes it in fp32.",
        ),
    ] = False,
    json_file: options.JsonFile = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix of the first artefact.")
    ] = None,
    worst: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many of its worst frames to draw.")
    ] = None,
    worst_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the worst frames go, such as worst.png.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where any frame could not be scored.")
    ] = False,
) -> None:
    """Score artefacts on labelled frames."""
    if (worst is None) != (worst_out is None):
        raise UsageError("--worst N and --worst-out FILE belong together; give both or none")
    options.check_json(json_file)
    for name, place in (("--confusion", confusion), ("--worst-out", worst_out)):
        if place:
            options.check_output(name, place, options.PICTURES)
    from fcn_deploy.cli.backend_options import options_for
    from fcn_deploy.evaluation import evaluate as score
    from fcn_deploy.runtimes.location import short_name

    found = []
    for index, artefact in enumerate(artefacts):
        opened = options_for(
            artefact,
            backend,
            option or (),
            device=device,
            provider=provider,
            threads=threads,
            allow_fallback=allow_fallback,
            cuda_binding=cuda_binding,
            expect_sha256=expect_sha256,
            trust=_trusted(trust, artefact, backend) if len(artefacts) > 1 else trust,
        )
        with console.progress(short_name(artefact)) as advance:
            found.append(
                score(
                    artefact,
                    data,
                    ignore_label=ignore_label,
                    keep_worst=worst if worst and index == 0 else 0,
                    simulate_fp16=simulate_fp16,
                    backend=backend,
                    progress=lambda _, total: advance(total),
                    **opened,
                )
            )
    _draw(found[0], confusion, worst_out)
    if json_file:
        console.write_json({"results": [evaluation.to_dict() for evaluation in found]}, json_file)
    out = console.Printer(to_stderr=options.is_stdout(json_file))
    _show(found, data, out)
    for place in (json_file, confusion, worst_out):
        if place and not options.is_stdout(place):
            out.say(f"Wrote {place}")
    if strict and any(evaluation.problems for evaluation in found):
        raise typer.Exit(1)


def _trusted(trust: bool | None, artefact: str, backend: str | None) -> bool | None:
    """``trust`` where the backend of an artefact knows the option: others beside it need none."""
    from fcn_deploy.runtimes.location import locate
    from fcn_deploy.runtimes.registry import backend_for

    return backend_for(locate(artefact), backend).own_options({"trust": trust}).get("trust")


def _draw(found: Evaluation, confusion: Path | None, worst_out: Path | None) -> None:
    """The pictures asked for, of the first artefact."""
    from fcn_deploy.camera.sinks.files import write_picture

    if confusion:
        write_picture(confusion, found.draw_confusion())
    if worst_out:
        write_picture(worst_out, found.draw_worst())


def _show(found: list[Evaluation], data: Path, out: console.Printer) -> None:
    from fcn_deploy.evaluation import METRICS
    from fcn_deploy.runtimes.location import short_name

    names = [f"{short_name(one.artefact)} ({one.backend})" for one in found]
    rows = [[title, *(f"{getattr(one, key):.4f}" for one in found)] for title, key in METRICS]
    rows.append(["frames", *(str(one.frames) for one in found)])
    out.table([str(data), *names], rows)
    by_class = [one.iu_by_class for one in found]
    classes = dict.fromkeys(name for scores in by_class for name in scores)
    out.table(["IU by class", *names], [[c, *(_score_words(s.get(c)) for s in by_class)] for c in classes])
    for sentence in dict.fromkeys(sentence for one in found for sentence in one.warnings):
        console.warn(sentence)
    for problems in dict.fromkeys(one.problems for one in found if one.problems):
        _warn_of(problems)


def _score_words(value: float | None) -> str:
    """A class that is in neither the true nor the predicted labels has no score."""
    return "-" if value is None else f"{value:.4f}"


_SHOWN_PROBLEMS = 20


def _warn_of(problems: tuple[str, ...]) -> None:
    console.warn(f"{len(problems)} frames were not scored and are in none of the figures:")
    for sentence in problems[:_SHOWN_PROBLEMS]:
        console.warn(sentence)
    if len(problems) > _SHOWN_PROBLEMS:
        console.warn(f"and {len(problems) - _SHOWN_PROBLEMS} more; --json names them all")
