"""How two latencies are measured so that they can be compared: the order, the rounds, the warm-up.

Each row runs in a process of its own, so its memory and its threads are its own. The rows of one
size and batch are measured in turns, in an order that is rotated every round, and the processes that
wait are stopped by the system. Agreement is measured on the frames that were timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fcn_deploy.arguments import as_names, as_size
from fcn_deploy.bench.machine import busy_warning, describe_machine, versions
from fcn_deploy.bench.measurement import RowMeasurement
from fcn_deploy.bench.plan import (
    check_backend_options,
    check_binding,
    check_numbers,
    check_sizes,
    measured_backends,
    open_specs,
    pair,
)
from fcn_deploy.bench.prepare import (
    BenchSettings,
    Case,
    Exported,
    artefact_row,
    make_reference_labels,
    reference_of,
    save_frames,
    typical_row,
)
from fcn_deploy.bench.process import CAN_PAUSE
from fcn_deploy.bench.results import BenchmarkResult, Row
from fcn_deploy.bench.stats import speed_up
from fcn_deploy.files import input_file
from fcn_deploy.runtimes.base import usable_cores

T = TypeVar("T")

WARM_UP_SECONDS = 20.0
"""The longest warm-up of a row."""


def benchmark(
    artefacts: str | Path | Sequence[str | Path],
    *,
    backends: str | Sequence[str] | None = None,
    sizes: Sequence[tuple[int, int]] = ((360, 480),),
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    cuda_binding: str | None = None,
    rounds: int = 10,
    seconds: float = 10.0,
    reference: str | Path | None = None,
    typical: bool = False,
    typical_model: str | Path | None = None,
    frames: str | Path | None = None,
    timeout: float = 300.0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> BenchmarkResult:
    """Measure artefacts against each other, with the agreement of their labels beside the speed.

    Args:
        artefacts: ``.onnx``, ``.safetensors`` and ``.engine`` files.
        backends: names in the registry, each combined with the artefacts that it reads; None uses
            what :func:`~fcn_deploy.runtimes.registry.load` would choose.
        sizes: heights and widths to measure, in pixels.
        batches: frames at a time.
        threads: of every row; None uses all cores that this process may use.
        cuda_binding: how engines reach the GPU, ``cuda-python`` or ``pycuda``; None uses the first that
            is installed.
        rounds: how often each row is timed, in turns with the others.
        seconds: timed seconds of each row, over all rounds.
        reference: the fp32 checkpoint that agreement is measured against, or ``bundled``; None
            uses the checkpoint in each artefact's own provenance.
        typical: also measure typical user code, made from the same checkpoint.
        typical_model: a plain ONNX file of the same network that typical user code runs: float NCHW frames
            in, logits out. Needed where the network is a module of yours.
        frames: an image, a folder of images or a video; None uses the synthetic street clip.
        timeout: seconds to wait for a response of a row's process before the row fails.
        progress: called with the name of each step as it begins.
        options: other options of backends, as :func:`fcn_deploy.load` takes them and JSON can hold them; each
            artefact gets those that its backend has.

    Returns:
        One row for each artefact, backend, size and batch. A row that fails says why, and the others are
        measured. Ratios are against typical user code where it was measured, otherwise
        against the first row of the same size and batch.

    Raises:
        UsageError: an argument is out of range, a file cannot be read, a backend is unknown,
            none of them reads any artefact, or no backend that is measured has an option.
        ModelError: an artefact is damaged.
    """
    backends = None if backends is None else as_names(backends)
    sizes = [as_size("a size", size) for size in sizes]
    check_numbers(sizes, batches, threads, rounds, seconds, timeout)
    check_binding(cuda_binding)
    found = open_specs([artefacts] if isinstance(artefacts, (str, Path)) else artefacts)
    check_sizes(found, sizes)
    pairs, warnings = pair(found, backends)
    given = {name: value for name, value in options.items() if value is not None}
    check_backend_options(measured_backends(pairs), given)
    references = {artefact.path: reference_of(artefact, reference, found) for artefact, _ in pairs}
    first_reference = references[pairs[0][0].path]
    exported = None
    if typical_model is not None:
        exported = Exported(input_file(typical_model, "plain ONNX file"), pairs[0][0].spec)
    machine = describe_machine()
    wanted = usable_cores() if threads is None else threads
    if warning := busy_warning(machine, wanted):
        warnings.append(warning)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows: list[Row] = []
    with TemporaryDirectory(prefix="fcn-deploy-bench-") as folder:
        settings = BenchSettings(
            threads=wanted,
            options={"cuda_binding": cuda_binding, **given},
            rounds=rounds,
            seconds=seconds,
            timeout=timeout,
            source=None if frames is None else Path(frames),
            folder=Path(folder),
            step=progress or (lambda _: None),
        )
        for height, width in dict.fromkeys(sizes):
            clip = save_frames(settings, height, width)
            labels = {
                one: make_reference_labels(settings, one, clip) for one in dict.fromkeys(references.values())
            }
            for batch in dict.fromkeys(batches):
                case = Case(height, width, batch, clip)
                group = [
                    artefact_row(settings, case, artefact, backend, labels[references[artefact.path]])
                    for artefact, backend in pairs
                ]
                if typical or exported is not None:
                    first = labels[first_reference]
                    group.append(typical_row(settings, case, first_reference, first, exported))
                rows += _measure(settings, group, clip)
    return BenchmarkResult(
        rows=tuple(rows),
        method=_in_words(settings, given),
        machine=machine,
        versions=versions(),
        threads=wanted,
        started_at=started,
        warnings=tuple(warnings),
    )


def _measure(settings: BenchSettings, group: list[RowMeasurement], frames: Path) -> list[Row]:
    """The rows of one size and batch: open all, warm up all, time in turns, compare labels."""
    with ExitStack() as opened:
        for one in group:
            if one.failure is None:
                settings.step(f"opening {one.title}")
                one.open(opened.enter_context(settings.worker()), frames)
        for one in group:
            settings.step(f"warming up {one.title}")
            one.warm_up(WARM_UP_SECONDS)
        for number in range(settings.rounds):
            settings.step(f"timing {group[0].known.case}, round {number + 1} of {settings.rounds}")
            for one in rotated(group, number):
                one.measure(settings.seconds / settings.rounds)
        for one in group:
            settings.step(f"comparing the labels of {one.title}")
            one.compare_labels(settings.folder / "labels.npy")
    return with_ratios([one.row() for one in group])


def rotated(group: Sequence[T], number: int) -> list[T]:
    """``group`` in the order of a round: each begins with another row, so that none always comes first."""
    first = number % len(group)
    return [*group[first:], *group[:first]]


def with_ratios(rows: list[Row]) -> list[Row]:
    """Rows of one size and batch with their speed against the baseline, round by round.

    The baseline is typical user code where it was measured, otherwise the first measured row.
    """
    measured = sorted((row for row in rows if row.latency_ms), key=lambda row: row.kind != "typical")
    if not measured or measured[0].latency_ms is None:
        return rows
    name, theirs = measured[0].name, measured[0].latency_ms.rounds
    return [
        replace(row, ratio=speed_up(name, theirs, row.latency_ms.rounds)) if row.latency_ms else row
        for row in rows
    ]


def _in_words(settings: BenchSettings, options: dict[str, Any]) -> dict[str, Any]:
    """The method as sentences, and the numbers in them."""
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    idle = (
        "The processes of rows that wait are stopped by the system (SIGSTOP), so their threads neither spin "
        "nor compute; while a row is timed, ONNX Runtime's threads spin, as they do by default."
        if CAN_PAUSE
        else "This system cannot stop a process, so spinning is off for ONNX Runtime's threads."
    )
    source = (
        "frames of the source given" if settings.source else "frames of the synthetic street clip (seed 0)"
    )
    share = settings.seconds / settings.rounds
    return {
        "text": [
            "Each row runs in a process of its own, with its own memory and threads.",
            f"All rows have {settings.threads} threads, set in the environment before any library is "
            "imported and again as an option of the backend.",
            f"All rows label the same {source}, at the size measured, one batch after another.",
            "Warm-up: each row is called until the median of its last 5 calls is not more than 2 % below "
            f"that of the 5 before, for at most {WARM_UP_SECONDS:.0f} s.",
            f"The rows of one size and batch are timed in turns: {settings.rounds} rounds, {share:.3g} s a "
            "row and at least one call, in an order that is rotated every round. The first call of a row in "
            "each round is not counted: it fills the caches again, which other rows have used since.",
            idle,
            "Percentiles are of single calls, by nearest rank. End to end is one call, from frames as a "
            "camera gives them to labels in host memory, and the sum of its stages. For an artefact "
            "preprocess is checking the frames and postprocess returning the labels; the rest is in the "
            "graph.",
            "Stages on a GPU are the times between CUDA events on its streams: frames from pinned host "
            "memory, compute, labels back. They can be compared with trtexec's H2D latency, GPU compute time "
            "and D2H latency; whether a CUDA graph was used is stated, and end to end always includes the "
            "transfers.",
            "Ratios are of the medians of the same round; the median, the smallest and the largest of them "
            "are given. Above 1 is faster than the baseline.",
            "Memory is the resident memory of the row's process, Python and the frames included; the peak is "
            "read after the last timed call.",
            "Agreement is the share of equal labels on the frames timed, against the plain PyTorch module "
            "in float32 with numpy preprocessing, which ran in a process that had ended before the timing "
            "began.",
            *([f"Options of backends: {given}."] if given else []),
        ],
        "options": options,
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "warm_up_seconds": WARM_UP_SECONDS,
        "timeout_seconds": settings.timeout,
        "frames": settings.source.name if settings.source else "synthetic street clip",
        "idle": "stopped" if CAN_PAUSE else "spinning off",
    }
