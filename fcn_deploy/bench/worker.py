"""The child of :mod:`fcn_deploy.bench.process`: ``python -m fcn_deploy.bench.worker``.

Requests are JSON objects, one a line, on stdin; for each, one response with the same ``id`` is written to
stdout. A response with ``error`` has the message of a failure. What libraries print to stdout goes to
stderr, so that it cannot mix with the responses.

The requests ``open``, ``warm_up``, ``measure`` and ``labels`` are about one subject, the row that this
process was started for. ``reference`` and ``typical`` prepare what rows need, in processes that have
ended before anything is timed.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bench.machine import memory_mb
from fcn_deploy.bench.stats import is_steady
from fcn_deploy.bench.subjects import STAGES, BenchSubject, open_bench_subject
from fcn_deploy.child import follow_parent, take_stdout
from fcn_deploy.errors import FcnDeployError, first_line

Frames = NDArray[np.uint8]
Request = dict[str, Any]
Response = dict[str, Any]


class Worker:
    """One row's subject, and the requests about it."""

    def __init__(self, open_: Callable[..., BenchSubject] = open_bench_subject) -> None:
        self._open = open_
        self._subject: BenchSubject
        self._batches: list[Frames] = []
        self._frames = 0
        self._next_batch = 0
        self._clock = time.process_time()

    def open(self, request: Request) -> Response:
        """Load the artefact and label one batch."""
        before = memory_mb()
        pool = np.load(request["frames"])
        began = time.perf_counter()
        self._subject = self._open(**request["subject"])
        loaded = time.perf_counter()
        resident = memory_mb()
        self._frames = len(pool)
        self._batches = make_batches(pool, request["batch"], self._subject.color_order)
        self._subject.call(self._batches[0])
        return {
            "load_seconds": loaded - began,
            "first_answer_seconds": time.perf_counter() - began,
            "before_load_mb": before and before[0],
            "after_load_mb": resident and resident[0],
            **self._subject.facts(),
        }

    def warm_up(self, request: Request) -> Response:
        """Call until latency is steady, for at most ``seconds``."""
        took: list[float] = []
        began = time.perf_counter()
        while not is_steady(took) and time.perf_counter() - began < request["seconds"]:
            took.append(sum(self._subject.call(self._next())[0]))
        return {"calls": len(took), "seconds": time.perf_counter() - began, "steady": is_steady(took)}

    def measure(self, request: Request) -> Response:
        """One round: a call that is not counted, then calls for ``seconds``, at least one.

        The call that is not counted fills the caches again, which other rows have used since.
        """
        idle = time.process_time() - self._clock
        self._subject.call(self._next())
        took: list[tuple[float, ...]] = []
        device: list[dict[str, float]] = []
        end = time.perf_counter() + request["seconds"]
        while not took or time.perf_counter() < end:
            took.append(self._subject.call(self._next())[0])
            device.append(self._subject.device_times())
        peak = memory_mb()
        times = {stage: [call[i] for call in took] for i, stage in enumerate(STAGES)}
        return {
            "times_ms": times,
            "device_ms": {stage: [call[stage] for call in device] for stage in device[0]},
            "peak_mb": peak and peak[1],
            "idle_cpu_seconds": idle,
        }

    def labels(self, request: Request) -> Response:
        """Label every frame once more and write the labels to ``out``."""
        found = np.concatenate([self._subject.call(batch)[1] for batch in self._batches])
        np.save(request["out"], found[: self._frames])
        return {}

    def reference(self, request: Request) -> Response:
        """The labels of a checkpoint's plain module; torch is imported in here."""
        from fcn_deploy.bench.reference import label_with_reference

        return label_with_reference(**request["job"])

    def typical(self, request: Request) -> Response:
        """Export a checkpoint's plain module as users do."""
        from fcn_deploy.bench.typical import export_typical

        return export_typical(**request["job"])

    def respond(self, request: Request) -> Response:
        """Carry out a request; an error becomes its message."""
        try:
            return dict(getattr(self, request["do"])(request))
        except FcnDeployError as exc:
            return {"error": str(exc)}
        except MemoryError:
            return {"error": "out of memory; use a smaller frame, a smaller batch or a smaller model"}
        except Exception as exc:  # any exception of a library is the row's failure
            traceback.print_exc()
            return {"error": f"unexpected {type(exc).__name__}: {first_line(exc)}"}
        finally:
            self._clock = time.process_time()

    def _next(self) -> Frames:
        self._next_batch += 1
        return self._batches[self._next_batch % len(self._batches)]


def make_batches(pool: Frames, batch: int, color_order: str) -> list[Frames]:
    """The frames in batches that cover them all; the last batch is filled up with the first frames.

    Args:
        pool: uint8 ``[F, H, W, 3]`` in B, G, R.
        batch: frames in each batch.
        color_order: of the batches: ``bgr`` or ``rgb``.
    """
    ordered = pool if color_order == "bgr" else pool[..., ::-1]
    count = -(-len(pool) // batch)
    whole = np.ascontiguousarray(ordered[np.arange(count * batch) % len(pool)])
    return [whole[i * batch : (i + 1) * batch] for i in range(count)]


def serve(requests: IO[bytes], responses: IO[bytes], worker: Worker) -> None:
    """Respond line by line until the owner closes the pipe."""
    for line in requests:
        request = json.loads(line)
        response = {"id": request["id"], **worker.respond(request)}
        responses.write(json.dumps(response).encode() + b"\n")
        responses.flush()


def main(worker: Worker | None = None) -> None:
    """Respond to the process that started this one, until it closes the pipe."""
    follow_parent()
    requests, responses = os.fdopen(os.dup(0), "rb"), take_stdout()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    serve(requests, responses, worker or Worker())


if __name__ == "__main__":
    main()
