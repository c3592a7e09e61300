"""What the worker responds, with a subject that computes nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.bench.process import WorkerProcess
from fcn_deploy.bench.worker import Worker, make_batches, serve
from fcn_deploy.errors import ModelError


class Made:
    """Its labels are the first channel; each call takes what ``times`` says."""

    color_order = "bgr"

    def __init__(self, times: Iterator[float], error: Exception | None = None) -> None:
        self.times, self.error = times, error
        self.seen: list[tuple[int, ...]] = []

    def call(self, images: np.ndarray) -> tuple[tuple[float, float, float], np.ndarray]:
        if self.error:
            raise self.error
        self.seen.append(images.shape)
        return (0.0, next(self.times), 0.0), images[..., 0].copy()

    def device_times(self) -> dict[str, float]:
        return {"compute": 2.5}

    def facts(self) -> dict[str, Any]:
        return {"device": "cpu", "precision": "fp32", "details": {}}


def falling(to: float, factor: float = 0.7) -> Iterator[float]:
    value = 1e300 if to == 0 else 100.0
    while True:
        yield value
        value = max(value * factor, to)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    path = tmp_path / "frames.npy"
    np.save(path, np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 4, 3), np.uint8))
    return path


def opened(subject: Made, frames: Path, batch: int = 2) -> Worker:
    worker = Worker(lambda **fields: subject)
    response = worker.respond({"do": "open", "frames": str(frames), "batch": batch, "subject": {}})
    assert response["device"] == "cpu" and response["first_answer_seconds"] >= response["load_seconds"] >= 0
    return worker


def test_warming_up_ends_when_latency_is_steady(frames: Path) -> None:
    worker = opened(Made(falling(to=10)), frames)
    response = worker.respond({"do": "warm_up", "seconds": 60})
    assert response["steady"] is True
    assert 10 <= response["calls"] < 40


def test_warming_up_ends_with_its_time(frames: Path) -> None:
    worker = opened(Made(falling(to=0, factor=0.96)), frames)
    response = worker.respond({"do": "warm_up", "seconds": 0.05})
    assert response["steady"] is False


def test_a_round_times_at_least_one_call_and_drops_the_first(frames: Path) -> None:
    subject = Made(iter([0.0, 777.0, 5.0]))
    response = opened(subject, frames).respond({"do": "measure", "seconds": 0.0})
    assert response["times_ms"] == {"preprocess": [0.0], "infer": [5.0], "postprocess": [0.0]}
    assert response["device_ms"] == {"compute": [2.5]}
    assert response["idle_cpu_seconds"] >= 0
    assert len(subject.seen) == 3


def test_labels_are_of_each_frame_once(frames: Path, tmp_path: Path) -> None:
    subject = Made(falling(to=1))
    out = tmp_path / "labels.npy"
    assert opened(subject, frames).respond({"do": "labels", "out": str(out)}) == {}
    labels = np.load(out)
    assert labels.shape == (5, 2, 4)
    assert labels[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert set(subject.seen) == {(2, 2, 4, 3)}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("model.onnx is damaged"), "model.onnx is damaged"),
        (ValueError("bad axis\nmore"), "unexpected ValueError: bad axis"),
        (MemoryError(), "out of memory; use a smaller frame, a smaller batch or a smaller model"),
    ],
)
def test_errors_become_sentences(
    frames: Path, error: Exception, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(lambda **fields: Made(falling(to=1), error))
    request = {"do": "open", "frames": str(frames), "batch": 1, "subject": {}}
    assert worker.respond(request) == {"error": told}


@given(st.integers(1, 9), st.integers(1, 20), st.sampled_from(["bgr", "rgb"]))
def test_batches_cover_the_frames_in_order_and_are_full(frames: int, batch: int, order: str) -> None:
    pool = np.arange(frames * 6, dtype=np.uint8).reshape(frames, 1, 2, 3)
    batches = make_batches(pool, batch, order)
    assert all(b.shape == (batch, 1, 2, 3) and b.flags.c_contiguous for b in batches)
    whole = np.concatenate(batches)
    wanted = pool if order == "bgr" else pool[..., ::-1]
    assert (whole[:frames] == wanted).all()
    assert len(whole) - frames < batch
    assert (whole == wanted[np.arange(len(whole)) % frames]).all()


def test_requests_and_responses_are_lines() -> None:
    requests = io.BytesIO(b'{"id": 4, "do": "labels", "out": "x"}\n{"id": 5, "do": "nothing"}\n')
    responses = io.BytesIO()
    serve(requests, responses, Worker())
    first, second = map(json.loads, responses.getvalue().splitlines())
    assert (first["id"], second["id"]) == (4, 5)
    assert "error" in first and "error" in second


LOUD = """
import os, subprocess, sys
import numpy as np
from fcn_deploy.bench.worker import Worker, main

class Loud:
    color_order = "bgr"
    def call(self, images):
        print("a library says hello")
        print('{"id": 1}')
        os.write(1, b"straight to the descriptor ")
        subprocess.run([sys.executable, "-c", "print('from a child')"])
        return (0.0, 1.0, 0.0), images[..., 0]
    def device_times(self):
        return {}
    def facts(self):
        return {"device": sys.stdin.read() or "nothing on stdin", "precision": "fp32", "details": {}}

main(Worker(lambda **fields: Loud()))
"""


def test_a_loud_library_cannot_break_the_protocol(
    tmp_path: Path, frames: Path, plant: Callable[[str], None]
) -> None:
    plant(LOUD)
    with WorkerProcess(tmp_path, "worker", threads=1) as worker:
        response = worker.ask("open", timeout=60, frames=str(frames), batch=1, subject={})
        assert response["device"] == "nothing on stdin"
        assert "times_ms" in worker.ask("measure", timeout=60, seconds=0)
    said = (tmp_path / "worker.stderr").read_text()
    assert "a library says hello" in said and "straight" in said and "from a child" in said
