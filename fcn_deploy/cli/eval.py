"""``fcn-deploy eval``: the paper's four metrics of artefacts on a labelled folder, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.evaluation import Evaluation
    from fcn_deploy.runtimes.segmenter import Segmenter

_METRICS = (
    ("mean IU", "mean_iu"),
    ("pixel accuracy", "pixel_accuracy"),
    ("mean accuracy", "mean_accuracy"),
    ("fw IU", "fw_iu"),
)
_SHOWN_PROBLEMS = 20


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
    for option, place in (("--confusion", confusion), ("--worst-out", worst_out)):
        if place:
            options.check_output(option, place, options.PICTURES)
    from fcn_deploy.runtimes.registry import load

    found = []
    for index, artefact in enumerate(artefacts):
        with (
            _simulated(artefact, simulate_fp16) as opened,
            load(
                opened,
                backend=backend,
                device=device,
                provider=provider,
                threads=threads,
                allow_fallback=allow_fallback,
                cuda_binding=cuda_binding,
                expect_sha256=expect_sha256,
            ) as segmenter,
        ):
            scored = _score(segmenter, artefact, data, ignore_label, worst or 0)
            if opened != artefact:
                scored = replace(scored, backend=f"{scored.backend}, fp16 simulated")
            found.append(scored)
            if index == 0:
                _draw(found[0], segmenter, confusion, worst_out)
    if json_file:
        console.write_json({"results": [evaluation.to_dict() for evaluation in found]}, json_file)
    out = console.Printer(aside=options.is_stdout(json_file))
    _show(found, data, out)
    for place in (json_file, confusion, worst_out):
        if place and not options.is_stdout(place):
            out.say(f"Wrote {place}")
    if strict and any(evaluation.problems for evaluation in found):
        raise typer.Exit(1)


@contextmanager
def _simulated(artefact: str, wanted: bool) -> Iterator[str | Path]:
    """The artefact, or a temporary one that rounds as fp16 does where it is wanted and there is fp16."""
    from fcn_deploy.runtimes.artefact import read_spec
    from fcn_deploy.runtimes.location import locate
    from fcn_deploy.runtimes.onnx_format import is_onnx_file

    location = locate(artefact)
    if not (wanted and is_onnx_file(location) and "fp16" in read_spec(artefact).precision):
        yield artefact
        return
    from fcn_deploy.export.rounding import simulated_artefact

    with simulated_artefact(Path(artefact)) as path:
        yield path


def _score(
    segmenter: Segmenter, name: str, data: Path, ignore_label: int | None, keep_worst: int
) -> Evaluation:
    from fcn_deploy import evaluation as scoring
    from fcn_deploy.data.folders import LabelledFolder
    from fcn_deploy.runtimes.location import short_name

    folder = LabelledFolder(data, color_order=segmenter.spec.color_order)
    with console.progress(short_name(name), len(folder)) as advance:
        found = scoring.evaluate(
            segmenter,
            folder,
            artefact=name,
            ignore_label=ignore_label,
            keep_worst=keep_worst,
            progress=advance,
        )
    for path in folder.orphans:
        console.warn(f"{path} has no image")
    return found


def _draw(found: Evaluation, segmenter: Segmenter, confusion: Path | None, worst_out: Path | None) -> None:
    """The pictures asked for, of the first artefact."""
    from fcn_deploy import draw
    from fcn_deploy.camera.sinks.files import write_picture

    spec = segmenter.spec
    if confusion:
        write_picture(confusion, draw.confusion_picture(found.confusion.counts, spec.classes))
    if worst_out:
        rows = []
        for one in found.worst:
            image = one.frame.image[..., ::-1] if spec.color_order == "bgr" else one.frame.image
            assert one.frame.labels is not None, "a frame without labels is not scored"
            maps = (draw.colorize(labels, spec.palette) for labels in (one.frame.labels, one.answer))
            caption = f"{one.frame.name}: mean IU {one.mean_iu:.3f}   (frame, labels, answer)"
            rows.append((caption, [image, *maps]))
        write_picture(worst_out, draw.strip(rows))


def _show(found: list[Evaluation], data: Path, out: console.Printer) -> None:
    from fcn_deploy.runtimes.location import short_name

    names = [f"{short_name(one.artefact)} ({one.backend})" for one in found]
    rows = [[title, *(f"{getattr(one, key):.4f}" for one in found)] for title, key in _METRICS]
    rows.append(["frames", *(str(one.frames) for one in found)])
    out.table([str(data), *names], rows)
    by_class = [one.iu_by_class for one in found]
    classes = dict.fromkeys(name for scores in by_class for name in scores)
    out.table(["IU by class", *names], [[c, *(_score_words(s.get(c)) for s in by_class)] for c in classes])
    for problems in dict.fromkeys(one.problems for one in found if one.problems):
        _warn_of(problems)


def _score_words(value: float | None) -> str:
    """A class that occurs neither in truth nor in answer has no score."""
    return "-" if value is None else f"{value:.4f}"


def _warn_of(problems: tuple[str, ...]) -> None:
    console.warn(f"{len(problems)} frames were not scored and are in none of the figures:")
    for sentence in problems[:_SHOWN_PROBLEMS]:
        console.warn(sentence)
    if len(problems) > _SHOWN_PROBLEMS:
        console.warn(f"and {len(problems) - _SHOWN_PROBLEMS} more; --json names them all")
