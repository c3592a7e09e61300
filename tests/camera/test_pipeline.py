"""Frames go from sources through a model into sinks, and every frame is accounted for."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from fcn_deploy.camera import IterableSource, Pipeline
from fcn_deploy.errors import FcnDeployError, PipelineError, UsageError
from fcn_deploy.runtimes.fake import FakeRuntime
from fcn_deploy.runtimes.segmenter import Segmenter


def frames(count: int, value: int = 0):
    return [np.full((4, 6, 3), (value + i) % 250, np.uint8) for i in range(count)]


def counts_add_up(now) -> bool:
    return now.captured == now.delivered + now.dropped + now.failed + now.in_flight


def test_a_file_loses_nothing_and_keeps_its_order() -> None:
    seen = []
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        now = Pipeline(IterableSource(frames(20)), segmenter, [lambda d: seen.append(d.frame.index)]).run()
    assert seen == list(range(20))
    assert (now.captured, now.delivered, now.dropped, now.in_flight) == (20, 20, 0, 0)
    assert now.age is not None and now.age.p50 >= 0


def test_a_live_source_drops_its_oldest_frames() -> None:
    with Segmenter(FakeRuntime(rule=2, delay=0.01)) as segmenter:
        now = Pipeline(IterableSource(frames(50), live=True), segmenter).run()
    assert now.dropped > 0
    assert now.delivered >= 1
    assert counts_add_up(now) and now.in_flight == 0


def test_cameras_share_an_inference() -> None:
    with Segmenter(FakeRuntime(rule=2, delay=0.01)) as segmenter:
        both = [IterableSource(frames(10)), IterableSource(frames(10, 100))]
        now = Pipeline(both, segmenter).run()
    assert [camera.delivered for camera in now.cameras] == [10, 10]
    assert now.inferences < 20 == now.inferred


def test_a_failing_sink_ends_the_run_and_all_sinks_are_closed() -> None:
    closed = threading.Event()

    class Closing:
        def __call__(self, delivery) -> None:
            if delivery.frame.index == 3:
                raise ValueError("no space")

        def close(self) -> None:
            closed.set()

    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        pipeline = Pipeline(IterableSource(frames(20)), segmenter, [Closing()])
        with pytest.raises(PipelineError, match="no space"):
            pipeline.run()
    assert closed.is_set()
    now = pipeline.statistics()
    assert now.failed >= 1 and counts_add_up(now) and now.in_flight == 0


def test_a_failing_model_ends_the_run() -> None:
    def rule(images):
        raise RuntimeError("device lost")

    with Segmenter(FakeRuntime(rule=rule)) as segmenter:
        pipeline = Pipeline(IterableSource(frames(20)), segmenter)
        with pytest.raises(FcnDeployError, match="device lost"):
            pipeline.run()
    assert counts_add_up(pipeline.statistics()) and pipeline.statistics().in_flight == 0


def test_leaving_the_loop_stops_it() -> None:
    with Segmenter(FakeRuntime(rule=2, delay=0.001)) as segmenter:
        pipeline = Pipeline(IterableSource(frames(500)), segmenter)
        loop = iter(pipeline)
        next(loop)
        loop.close()
        now = pipeline.statistics()
    assert now.delivered == 1 and counts_add_up(now) and now.in_flight == 0
    with pytest.raises(UsageError, match="once"):
        pipeline.run()
