"""Anything may happen at any moment: random faults, stops and interrupts, and the same rules as ever."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import GeneratedSource, RecordingSink, echo, images, outcome

from fcn_deploy.camera import Delivery, Pipeline
from fcn_deploy.camera.sinks.base import StopPipeline
from fcn_deploy.errors import FcnDeployError
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime


def a_run(seed: int) -> None:
    """One run of a pipeline with what the seed says, held to the rules of every run."""
    chance = random.Random(seed)
    faults = chance.choice([0, 0, 1, 3])
    goes_on = chance.random() < 0.4
    stopped = threading.Event()

    def unlucky(one_in: int) -> bool:
        return bool(faults) and chance.random() < faults / one_in

    def camera(live: bool, count: int, gap: float, size: tuple[int, int]) -> GeneratedSource:
        def make(stopping: threading.Event) -> Iterator[Any]:
            for number in range(10**6 if live else count):
                if stopping.wait(gap) if gap else stopping.is_set():
                    return
                if unlucky(300):
                    raise OSError("cable pulled")
                yield images(1, size, number)[0]

        return GeneratedSource(make, f"camera {count}", live)

    def model(frames: Any) -> Any:
        if unlucky(200):
            raise RuntimeError("device lost")
        return echo(frames)

    def act(delivery: Delivery) -> None:
        if unlucky(200):
            raise chance.choice([OSError("no space"), StopPipeline(), KeyboardInterrupt()])
        if chance.random() < 0.02:
            time.sleep(0.003)

    cameras = [
        camera(
            live=chance.random() < 0.5,
            count=chance.randrange(80),
            gap=chance.choice([0, 0, 0.0003, 0.004]),
            size=chance.choice([(2, 3), (2, 3), (3, 2)]),
        )
        for _ in range(chance.randint(1, 4))
    ]
    sinks = [RecordingSink(act) for _ in range(chance.randint(0, 2))]
    runtime = FakeRuntime(
        rule=model, delay=chance.choice([0, 0, 0.001, 0.004]), max_batch=chance.choice([None, 1, 2])
    )
    until = chance.uniform(0, 0.08)
    with Segmenter(runtime) as segmenter:
        made = Pipeline(
            cameras,
            segmenter,
            sinks,
            on_error="continue" if goes_on else "stop",
            max_frames=chance.choice([None, None, 1, 40]),
        )

        def iterate() -> None:
            for number, _ in enumerate(made):
                if number == 25:
                    break

        def stop() -> None:
            stopped.set()
            made.stop()

        timer = threading.Timer(until, stop)
        timer.start()
        raised, now = outcome(made, sinks, chance.choice([None, None, iterate]))
        finished = not stopped.is_set()
        timer.cancel()
        timer.join()
    assert raised is None or isinstance(raised, (FcnDeployError, KeyboardInterrupt)), raised
    assert raised is None or faults, raised
    if raised is None and finished and not faults and made._max_frames is None and now.delivered < 26:
        for each, source in zip(now.cameras, cameras, strict=True):
            assert source.live or each.dropped == 0, "a file lost a frame"
    assert all(source.released <= 1 for source in cameras)


def many_runs(seconds: float, seed: int) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            a_run(seed)
        except BaseException as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
        seed += 1


def test_a_few_random_runs() -> None:
    many_runs(1, seed=1000)


@pytest.mark.slow
def test_a_minute_of_random_runs() -> None:
    many_runs(60, seed=random.randrange(10**6, 10**9))


_INTERRUPTS = """
    import faulthandler, os, random, signal, sys, threading, time
    sys.path.insert(0, FOLDER)
    from deadline import soon
    from pipeline_runs import GeneratedSource, RecordingSink, camera_threads, echo, images
    from fcn_deploy.camera import Pipeline
    from fcn_deploy.testing import FakeRuntime
    from fcn_deploy.runtimes.segmenter import Segmenter

    def endless(stopping):
        while not stopping.is_set():
            yield from images(1)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = 0
    with Segmenter(FakeRuntime(rule=echo)) as segmenter:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            faulthandler.dump_traceback_later(10, exit=True)
            sink = RecordingSink()
            pipeline = Pipeline(GeneratedSource(endless), segmenter, [sink])
            delay = random.uniform(0, 0.015)
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                pipeline.run()
            except KeyboardInterrupt:
                interrupted += 1
            timer.join()
            assert soon(lambda: not camera_threads(), 1), f"it runs on after {delay} s"
            now = pipeline.statistics()
            assert sink.closed == bool(now.seconds) and now.in_flight == 0, now
            assert now.captured == now.delivered + now.dropped + now.failed, now
    print(interrupted)
"""


@pytest.mark.parametrize("seconds", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_moment(seconds: int) -> None:
    folder = str(Path(__file__).parents[1])
    script = f"FOLDER, SECONDS = {folder!r}, {seconds}\n{textwrap.dedent(_INTERRUPTS)}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=seconds + 20)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 5
