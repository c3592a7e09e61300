"""How a fair measurement is made: every decision that makes two figures comparable stands here.

Each row runs in a process of its own, so its memory and its threads are its own. The rows of one
size and batch are measured in turns, in an order that is rotated every round, and those that wait
are stopped by the system. Agreement is measured on the frames that were timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fcn_deploy.bench.contender import Contender
from fcn_deploy.bench.machine import busy, describe_machine, versions
from fcn_deploy.bench.plan import check_binding, check_numbers, check_sizes, open_specs, pair
from fcn_deploy.bench.prepare import (
    Case,
    Settings,
    answer,
    artefact_row,
    reference_of,
    save_frames,
    typical_row,
)
from fcn_deploy.bench.process import CAN_PAUSE
from fcn_deploy.bench.results import BenchReport, Row
from fcn_deploy.bench.stats import speed_up
from fcn_deploy.runtimes.base import usable_cores

T = TypeVar("T")

WARM_UP_SECONDS = 20.0
"""The longest that a row warms up."""


def benchmark(
    artefacts: str | Path | Sequence[str | Path],
    *,
    backends: Sequence[str] | None = None,
    sizes: Sequence[tuple[int, int]] = ((360, 480),),
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    cuda_binding: str | None = None,
    rounds: int = 10,
    seconds: float = 10.0,
    reference: str | Path | None = None,
    typical: bool = False,
    frames: str | Path | None = None,
    timeout: float = 300.0,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure artefacts against each other, with the agreement of their labels beside the speed.

    Args:
        artefacts: ``.onnx``, ``.safetensors`` and ``.engine`` files.
        backends: names in the registry, each combined with the artefacts that it reads; None takes
            what :func:`~fcn_deploy.runtimes.registry.load` would take.
        sizes: heights and widths to measure, in pixels.
        batches: frames at a time.
        threads: of every row; None takes all cores that this process may use.
        cuda_binding: how engines reach the GPU, ``cuda-python`` or ``pycuda``; None takes the first that
            is installed.
        rounds: turns of each row.
        seconds: timed seconds of each row, over all its turns.
        reference: the fp32 checkpoint that agreement is measured against, or ``bundled``; None
            follows the chain in each artefact's own description.
        typical: also measure typical user code, made from the same checkpoint.
        frames: an image, a folder of images or a video; None takes the synthetic street clip.
        timeout: seconds that a row's process may be silent before the row is given up.
        progress: called with the name of each step as it begins.

    Returns:
        A report with one row for each artefact, backend, size and batch. A row that fails says why
        and the others go on. Ratios are against typical user code where it was measured, otherwise
        against the first row of the same size and batch.

    Raises:
        UsageError: an argument is out of range, a file cannot be read, a backend is unknown, or
            none of them reads any artefact.
        ModelError: an artefact is damaged.
    """
    check_numbers(sizes, batches, threads, rounds, seconds, timeout)
    check_binding(cuda_binding)
    found = open_specs([artefacts] if isinstance(artefacts, (str, Path)) else artefacts)
    check_sizes(found, sizes)
    pairs, warnings = pair(found, backends)
    references = {artefact.path: reference_of(artefact, reference, found) for artefact, _ in pairs}
    basis = references[pairs[0][0].path]
    machine = describe_machine()
    wanted = usable_cores() if threads is None else threads
    if warning := busy(machine, wanted):
        warnings.append(warning)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows: list[Row] = []
    with TemporaryDirectory(prefix="fcn-deploy-bench-") as folder:
        settings = Settings(
            threads=wanted,
            cuda_binding=cuda_binding,
            rounds=rounds,
            seconds=seconds,
            timeout=timeout,
            source=None if frames is None else Path(frames),
            folder=Path(folder),
            step=progress or (lambda _: None),
        )
        for height, width in dict.fromkeys(sizes):
            pool = save_frames(settings, height, width)
            answers = {base: answer(settings, base, pool) for base in dict.fromkeys(references.values())}
            for batch in dict.fromkeys(batches):
                case = Case(height, width, batch, pool)
                group = [
                    artefact_row(settings, case, artefact, backend, answers[references[artefact.path]])
                    for artefact, backend in pairs
                ]
                if typical:
                    group.append(typical_row(settings, case, basis, answers[basis]))
                rows += _measure(settings, group, pool)
    return BenchReport(
        rows=tuple(rows),
        method=_in_words(settings),
        machine=machine,
        versions=versions(),
        threads=wanted,
        started_at=started,
        warnings=tuple(warnings),
    )


def _measure(settings: Settings, group: list[Contender], pool: Path) -> list[Row]:
    """The rows of one size and batch: open all, warm all, time in turns, compare labels."""
    with ExitStack() as opened:
        for contender in group:
            if contender.failure is None:
                settings.step(f"opening {contender.title}")
                contender.open(opened.enter_context(settings.worker()), pool)
        for contender in group:
            settings.step(f"warming up {contender.title}")
            contender.warm(WARM_UP_SECONDS)
        for turn in range(settings.rounds):
            settings.step(f"timing {group[0].case}, round {turn + 1} of {settings.rounds}")
            for contender in rotated(group, turn):
                contender.measure(settings.seconds / settings.rounds)
        for contender in group:
            settings.step(f"comparing the labels of {contender.title}")
            contender.agree(settings.folder / "labels.npy")
    return with_ratios([contender.row() for contender in group])


def rotated(group: Sequence[T], turn: int) -> list[T]:
    """Another first one each turn, so that no row always follows the same neighbour's heat."""
    first = turn % len(group)
    return [*group[first:], *group[:first]]


def with_ratios(rows: list[Row]) -> list[Row]:
    """Rows of one size and batch with their speed against the baseline, round by round.

    The baseline is typical user code where it was measured, otherwise the first row that was.
    """
    measured = sorted((row for row in rows if row.latency_ms), key=lambda row: row.kind != "typical")
    if not measured or measured[0].latency_ms is None:
        return rows
    name, theirs = measured[0].name, measured[0].latency_ms.rounds
    return [
        replace(row, ratio=speed_up(name, theirs, row.latency_ms.rounds)) if row.latency_ms else row
        for row in rows
    ]


def _in_words(settings: Settings) -> dict[str, Any]:
    """The method as sentences, with the numbers that they speak of."""
    idle = (
        "Rows that wait are stopped by the system (SIGSTOP), so nothing of theirs spins or computes; "
        "ONNX Runtime's threads spin while their row has its turn, as they do by default."
        if CAN_PAUSE
        else "Rows that wait block; ONNX Runtime's threads are told not to spin at all (spinning off)."
    )
    source = (
        "frames of the source given" if settings.source else "frames of the synthetic street clip (seed 0)"
    )
    turn = settings.seconds / settings.rounds
    return {
        "text": [
            "Each row runs in a process of its own, with its own memory and threads.",
            f"All rows have {settings.threads} threads, set in the environment before any library is "
            "imported and again as an option of the backend.",
            f"All rows answer the same {source}, at the size measured, one batch after another.",
            "Each row warms up until the median of its last 5 calls is not more than 2 % below that of "
            f"the 5 before, for at most {WARM_UP_SECONDS:.0f} s.",
            f"The rows of one size and batch are timed in turns: {settings.rounds} rounds, {turn:.3g} s a "
            "turn and at least one call, in an order that is rotated every round. The first call of a turn "
            "is not counted: it brings back what other rows drove out of the caches.",
            idle,
            "Percentiles are of single calls, by nearest rank. End to end is one call from the frames as a "
            "camera hands them over to labels in host memory, and the sum of its stages. For an artefact "
            "preprocess is checking the frames and postprocess handing over the labels; the rest is in the "
            "graph.",
            "Where a device is asked, its stages are the times between CUDA events on its streams: frames "
            "from pinned host memory, compute, answers back. They can be laid beside trtexec's H2D latency, "
            "GPU compute time and D2H latency; CUDA graphs are stated, end to end always has transfers.",
            "Ratios are taken round by round from the medians of the same round; the middle one, the "
            "smallest and the largest are given. Above 1 is faster than the baseline.",
            "Memory is the resident memory of the row's process, with Python and the frames; the peak is "
            "read after the last timed call.",
            "Agreement is the share of equal labels on the frames timed, against the plain PyTorch module "
            "in float32 with numpy preprocessing, which answered in a process that had ended before the "
            "timing.",
        ],
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "warm_up_seconds": WARM_UP_SECONDS,
        "timeout_seconds": settings.timeout,
        "frames": settings.source.name if settings.source else "synthetic street clip",
        "idle": "stopped" if CAN_PAUSE else "spinning off",
    }
