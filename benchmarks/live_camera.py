"""A camera with 30 frames a second and a model that manages 10: how old are the delivered frames?

    python benchmarks/live_camera.py --minutes 10 --model-fps 10
    python benchmarks/live_camera.py --restarts 5
    python benchmarks/live_camera.py --minutes 1 --artefact model.onnx

An RTSP server (tests/camera/rtsp_server.py, which names Debian's packages that it needs) serves H.264 on
loopback. Each frame has the time at which it was drawn in it, as black and white blocks, read from this
machine's monotonic clock; so the age of a frame includes encoder, network, decoder, every queue and the
model. ``--restarts`` kills the server like a power cut, starts it again a second later, and once with
another frame size. Counts, ages and memory are printed as they are measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "camera"))
import drawn_time
import rtsp_server

import fcn_deploy
from fcn_deploy.camera import SourceOptions, open_source
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime

SIZES = ((360, 480), (240, 320))
DOWN = 1.0
"""Seconds from a kill to the new start."""
WINDOW = 2.0
"""Seconds before a kill, and after the first frame that came again, whose ages are reported."""


class Log:
    """When frames were delivered, how old they were, and their sizes; arrays, to need little memory."""

    def __init__(self) -> None:
        self.times, self._ages = array("d"), array("d")
        self.sizes: set[tuple[int, int]] = set()
        self.unreadable = 0

    def add(self, image: Any) -> None:
        now = time.monotonic()
        drawn = drawn_time.read(image)
        self.unreadable += drawn is None
        self._ages.append(math.nan if drawn is None else now - drawn)
        self.times.append(now)
        self.sizes.add(image.shape[:2])

    def between(self, begin: float, end: float) -> list[float]:
        """Ages of the frames delivered in that time, in seconds; unreadable ones are not among them."""
        first, last = bisect_left(self.times, begin), bisect_left(self.times, end)
        return [age for age in self._ages[first:last] if not math.isnan(age)]

    def first_after(self, moment: float) -> float | None:
        at = bisect_left(self.times, moment)
        return self.times[at] if at < len(self.times) else None


def main() -> None:
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if reason := rtsp_server.problem():
        sys.exit(f"the RTSP server {reason}")
    with rtsp_server.Server(SIZES[0], args.fps) as server:
        source = open_source(server.url, options=SourceOptions(transport=args.transport))
        log = Log()
        run = _bare(source, log) if args.bare else _pipeline(source, log, args)
        watch = _restarts if args.restarts else _minutes
        result = watch(server, log, run, args)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--uptime", type=float, default=6.0, help="seconds between two kills")
    parser.add_argument("--fps", type=int, default=30, help="frames a second of the server")
    parser.add_argument("--model-fps", type=float, default=10.0, help="frames a second of the fake model")
    parser.add_argument("--artefact", help="a real model instead of the fake one")
    parser.add_argument("--transport", default="tcp", choices=("tcp", "udp"))
    parser.add_argument("--bare", action="store_true", help="the source alone, without a pipeline")
    parser.add_argument("--json", help="write the figures there too")
    return parser.parse_args()


# --- what runs ---------------------------------------------------------------------------------


@dataclass
class Run:
    """Something that takes frames in a thread until it is stopped."""

    stop: Callable[[], None]
    """Stop it and wait until it has ended."""
    statistics: Callable[[], dict[str, Any] | None]
    """The pipeline's own figures; None without a pipeline."""


def _bare(source: Any, log: Log) -> Run:
    stopping = threading.Event()

    def take() -> None:
        with closing(source.frames(stopping)) as frames:
            for frame in frames:
                log.add(frame.image)

    return _started(take, stopping.set, lambda: None)


def _pipeline(source: Any, log: Log, args: argparse.Namespace) -> Run:
    from fcn_deploy.camera import Pipeline

    if args.artefact:
        segmenter = fcn_deploy.load(args.artefact)
    else:
        segmenter = Segmenter(FakeRuntime(rule=0, delay=1 / args.model_fps))
    pipeline = Pipeline(source, segmenter, sinks=[lambda delivery: log.add(delivery.frame.image)])

    def take() -> None:
        with segmenter:
            pipeline.run()

    return _started(take, pipeline.stop, lambda: pipeline.statistics().to_json())


def _started(take: Callable[[], None], stop: Callable[[], None], statistics: Callable[[], Any]) -> Run:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            take()
        except BaseException as exc:
            problems.append(exc)

    thread = threading.Thread(target=work, name="benchmark")
    thread.start()

    def stopped() -> None:
        stop()
        thread.join(30)
        assert not thread.is_alive(), "it did not stop within 30 s"
        if problems:
            raise problems[0]

    return Run(stopped, statistics)


# --- what is watched ---------------------------------------------------------------------------


def _minutes(server: rtsp_server.Server, log: Log, run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """Age and memory, minute by minute."""
    rows = []
    begun = time.monotonic()
    print("minute  frames  age p50  age p99  oldest  pipeline's p50  p99      resident")
    for minute in range(1, max(1, round(args.minutes)) + 1):
        since = time.monotonic()
        until = begun + minute * args.minutes * 60 / max(1, round(args.minutes))
        resident = []
        while (left := until - time.monotonic()) > 0:  # it varies by the size of a dozen frames
            time.sleep(min(1.0, left))
            resident.append(_resident())
        row = {
            "minute": minute,
            **_quantiles(log.between(since, time.monotonic())),
            "pipeline": run.statistics(),
            "resident_kb": statistics.median(resident),
            "resident_kb_range": (min(resident), max(resident)),
        }
        rows.append(row)
        own = (row["pipeline"] or {}).get("age_ms") or {}
        print(
            f"{minute:6d}  {row['frames']:6d}  {_ms(row['p50'])}  {_ms(row['p99'])}  {_ms(row['max'])}  "
            f"{own.get('p50', math.nan):11.0f} ms  {own.get('p99', math.nan):4.0f} ms  "
            f"{row['resident_kb'] / 1024:6.1f} MB ({min(resident) / 1024:.0f} to {max(resident) / 1024:.0f})",
            flush=True,
        )
    run.stop()
    result = {"rows": rows, "unreadable": log.unreadable, **_counts(run)}
    if len(rows) > 2:
        growth = rows[-1]["resident_kb"] / rows[1]["resident_kb"] - 1
        print(f"resident memory, median of the last minute against the second: {growth:+.2%}")
    _show_counts(result, log)
    return result


def _restarts(server: rtsp_server.Server, log: Log, run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """The server is killed and started again; each time, how long until frames come."""
    rows = []
    _wait_for(lambda: log.times, "no frame came at all")
    print("kill  size after  back after start  after kill  age before p50 / max  after p50 / max")
    for number in range(1, args.restarts + 1):
        time.sleep(args.uptime)
        killed = time.monotonic()
        server.kill()
        time.sleep(DOWN)
        server.size = SIZES[1] if number == (args.restarts + 1) // 2 else SIZES[0]
        server.start()
        started = time.monotonic()
        _wait_for(lambda moment=started: log.first_after(moment), "the stream was not found again")
        back = log.first_after(started)
        assert back is not None
        time.sleep(WINDOW)
        row = {
            "kill": number,
            "size": server.size,
            "after_start": back - started,
            "after_kill": back - killed,
            "before": _quantiles(log.between(killed - WINDOW, killed)),
            "after": _quantiles(log.between(back, back + WINDOW)),
        }
        rows.append(row)
        before, after = row["before"], row["after"]
        print(
            f"{number:4d}  {'x'.join(map(str, server.size)):>10}  {row['after_start']:14.2f} s"
            f"  {row['after_kill']:8.2f} s  {_ms(before['p50'])} / {_ms(before['max'])}"
            f"  {_ms(after['p50'])} / {_ms(after['max'])}",
            flush=True,
        )
    run.stop()
    result = {"rows": rows, "unreadable": log.unreadable, **_counts(run)}
    print("sizes delivered: " + ", ".join("x".join(map(str, size)) for size in sorted(set(log.sizes))))
    _show_counts(result, log)
    return result


def _counts(run: Run) -> dict[str, Any]:
    """The pipeline's counts, and whether each captured frame is accounted for."""
    counts = run.statistics()
    if counts is None:
        return {}
    kinds = ("delivered", "dropped", "failed", "in_flight")
    return {"statistics": counts, "exact": counts["captured"] == sum(counts[kind] for kind in kinds)}


def _show_counts(result: dict[str, Any], log: Log) -> None:
    print(f"{len(log.times)} frames delivered, {result['unreadable']} with a stamp that could not be read")
    if counts := result.get("statistics"):
        print(
            f"captured {counts['captured']} = delivered {counts['delivered']} + dropped {counts['dropped']} "
            f"+ failed {counts['failed']} + in flight {counts['in_flight']}: "
            f"{'exact' if result['exact'] else 'NOT EXACT'}; reconnects {counts['reconnects']}"
        )
        if not result["exact"]:
            sys.exit(1)


def _quantiles(ages: list[float]) -> dict[str, Any]:
    ordered = sorted(ages)
    if not ordered:
        return {"frames": 0, "p50": None, "p99": None, "max": None}
    at = [ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0)]
    return {"frames": len(ordered), "p50": at[0], "p99": at[1], "max": at[2]}


def _ms(seconds: float | None) -> str:
    return "      -" if seconds is None else f"{1000 * seconds:4.0f} ms"


def _resident() -> int:
    """Resident memory of this process, in kB, from the kernel."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def _wait_for(condition: Callable[[], Any], complaint: str, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            sys.exit(complaint)
        time.sleep(0.01)


if __name__ == "__main__":
    main()
