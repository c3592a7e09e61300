"""The child of :mod:`fcn_deploy.bench.process`: ``python -m fcn_deploy.bench.worker``.

One JSON object a line comes in on stdin and one goes out on stdout for each, with the same ``id``.
An answer that carries ``error`` is a failure in words. The stdout of libraries is turned to stderr,
so nothing they print can stand between the lines.

The answers to ``open``, ``warm``, ``measure`` and ``labels`` are about one subject, the row that this
process was made for. ``reference`` and ``typical`` prepare what rows need, in processes that have
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
from fcn_deploy.bench.subjects import STAGES, Subject, open_subject
from fcn_deploy.child import follow_parent, take_stdout
from fcn_deploy.errors import FcnDeployError
from fcn_deploy.runtimes.base import first_line

Frames = NDArray[np.uint8]
Answer = dict[str, Any]


class Worker:
    """One row's subject, and the requests about it."""

    def __init__(self, open_: Callable[..., Subject] = open_subject) -> None:
        self._open = open_
        self._subject: Subject
        self._batches: list[Frames] = []
        self._frames = 0
        self._turn = 0
        self._clock = time.process_time()

    def open(self, request: Answer) -> Answer:
        """Load the artefact and answer once."""
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

    def warm(self, request: Answer) -> Answer:
        """Call until latency is steady, for at most ``seconds``."""
        took: list[float] = []
        began = time.perf_counter()
        while not is_steady(took) and time.perf_counter() - began < request["seconds"]:
            took.append(sum(self._subject.call(self._next())[0]))
        return {"calls": len(took), "seconds": time.perf_counter() - began, "steady": is_steady(took)}

    def measure(self, request: Answer) -> Answer:
        """One turn: a call that does not count, then calls for ``seconds``, at least one.

        The one that does not count brings back what other rows drove out of the caches.
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

    def labels(self, request: Answer) -> Answer:
        """Answer every frame once more and keep the labels in ``out``."""
        found = np.concatenate([self._subject.call(batch)[1] for batch in self._batches])
        np.save(request["out"], found[: self._frames])
        return {}

    def reference(self, request: Answer) -> Answer:
        """The labels of a checkpoint's plain module; torch is imported in here."""
        from fcn_deploy.bench.reference import answer_reference

        return answer_reference(**request["job"])

    def typical(self, request: Answer) -> Answer:
        """Export a checkpoint's plain module as users do."""
        from fcn_deploy.bench.typical import export_typical

        export_typical(**request["job"])
        return {}

    def answer(self, request: Answer) -> Answer:
        """Do what a request says; an error becomes a sentence."""
        try:
            return dict(getattr(self, request["do"])(request))
        except FcnDeployError as exc:
            return {"error": str(exc)}
        except MemoryError:
            return {"error": "out of memory; use a smaller frame, a smaller batch or a smaller model"}
        except Exception as exc:  # whatever a library raises is the row's failure
            traceback.print_exc()
            return {"error": f"unexpected {type(exc).__name__}: {first_line(exc)}"}
        finally:
            self._clock = time.process_time()

    def _next(self) -> Frames:
        self._turn += 1
        return self._batches[self._turn % len(self._batches)]


def make_batches(pool: Frames, batch: int, color_order: str) -> list[Frames]:
    """``pool``, uint8 ``[F, H, W, 3]`` in B, G, R, as batches that cover it; the last one wraps round."""
    ordered = pool if color_order == "bgr" else pool[..., ::-1]
    count = -(-len(pool) // batch)
    whole = np.ascontiguousarray(ordered[np.arange(count * batch) % len(pool)])
    return [whole[i * batch : (i + 1) * batch] for i in range(count)]


def serve(requests: IO[bytes], answers: IO[bytes], worker: Worker) -> None:
    """Answer line by line until the owner closes the pipe."""
    for line in requests:
        request = json.loads(line)
        answer = {"id": request["id"], **worker.answer(request)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def main(worker: Worker | None = None) -> None:
    """Serve the process that started this one."""
    follow_parent()
    requests, answers = os.fdopen(os.dup(0), "rb"), take_stdout()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    serve(requests, answers, worker or Worker())


if __name__ == "__main__":
    main()
