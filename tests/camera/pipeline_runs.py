"""Runs of a pipeline, and checks that hold for every run, however it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from deadline import in_time, soon, stacks
from numpy.typing import NDArray

from fcn_deploy.camera import CameraFrame, Delivery, Pipeline, Source, Statistics


def images(count: int, size: tuple[int, int] = (2, 3), first: int = 0) -> list[NDArray[np.uint8]]:
    """Frames whose channels are their number, which :func:`echo` returns as labels."""
    return [np.full((*size, 3), (first + number) % 256, np.uint8) for number in range(count)]


def echo(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frames[..., 0].copy()


class Failing:
    """Echoes, except for the frames of one number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if (frames[:, 0, 0, 0] == self.number).any():
            raise RuntimeError("device lost")
        return echo(frames)


class GeneratedSource(Source):
    """A source whose images come from a generator function."""

    def __init__(
        self, make: Callable[[threading.Event], Iterator[Any]], name: str = "generated", live: bool = False
    ) -> None:
        super().__init__(name, live=live)
        self._make = make
        self.released = 0

    def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
        try:
            for index, image in enumerate(self._make(stopping)):
                yield CameraFrame(image, f"{index:06d}", index, time.monotonic())
        finally:
            self.released += 1


class RecordingSink:
    """A sink that notes the frames it gets, and then calls ``act``."""

    def __init__(self, act: Callable[[Delivery], object] | None = None) -> None:
        self.seen: dict[int, list[int]] = {}
        self.closed = 0
        self._act = act

    def __call__(self, delivery: Delivery) -> None:
        assert not self.closed, "called after close()"
        assert (delivery.labels == delivery.frame.image[..., 0]).all(), "the result of another frame"
        assert delivery.age >= 0
        self.seen.setdefault(delivery.frame.camera, []).append(delivery.frame.index)
        if self._act:
            self._act(delivery)

    def close(self) -> None:
        self.closed += 1

    @property
    def count(self) -> int:
        return sum(map(len, self.seen.values()))


def camera_threads() -> set[threading.Thread]:
    """Threads of pipelines that are running now."""
    return {thread for thread in threading.enumerate() if thread.name == "fcn-deploy-camera"}


def outcome(
    pipeline: Pipeline,
    sinks: Sequence[RecordingSink] = (),
    act: Callable[[], object] | None = None,
    seconds: float = 2.0,
) -> tuple[BaseException | None, Statistics]:
    """Run it, and check what must hold for every run.

    Args:
        pipeline: to run.
        sinks: its sinks.
        act: called instead of ``pipeline.run``.
        seconds: the time limit.

    Returns:
        What it raised, and its last statistics.
    """
    done, others = threading.Event(), camera_threads()
    wrong: list[BaseException] = []

    def check_statistics() -> None:
        try:
            before = pipeline.statistics()
            while not done.wait(0.0005):
                now = pipeline.statistics()
                for camera, earlier in zip(now.cameras, before.cameras, strict=True):
                    assert camera.in_flight >= 0
                    assert camera.captured >= earlier.captured and camera.delivered >= earlier.delivered
                assert now.prometheus() and str(now) and now.to_json()
                before = now
        except BaseException as exc:
            wrong.append(exc)

    checking = threading.Thread(target=check_statistics, daemon=True)
    checking.start()
    raised: BaseException | None = None
    try:
        in_time(act or pipeline.run, seconds)
    except AssertionError:
        raise
    except BaseException as exc:
        raised = exc
    finally:
        done.set()
    checking.join(2)
    assert not wrong, wrong
    assert soon(lambda: camera_threads() <= others, 1), f"threads are left\n{stacks()}"
    last = pipeline.statistics()
    for camera in last.cameras:
        assert camera.in_flight == 0, camera
        assert camera.captured == camera.delivered + camera.dropped + camera.failed
    for sink in sinks:
        assert sink.closed == 1, f"closed {sink.closed} times"
        for seen in sink.seen.values():
            assert seen == sorted(set(seen)), "the order within a camera"
    return raised, last
