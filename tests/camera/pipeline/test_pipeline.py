"""Frames go from sources through a model into sinks, and every frame is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest

from fcn_deploy.camera import IterableSource, Pipeline
from fcn_deploy.errors import FcnDeployError, PipelineError, UsageError
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime


def frames(count: int, value: int = 0):
    return [np.full((4, 6, 3), (value + i) % 250, np.uint8) for i in range(count)]


def counts_add_up(now) -> bool:
    return now.captured == now.delivered + now.dropped + now.failed + now.in_flight


def test_no_frame_of_a_file_is_dropped_and_the_order_is_kept() -> None:
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


def test_a_model_for_one_frame_gets_one_camera_at_a_time() -> None:
    with Segmenter(FakeRuntime(rule=2, max_batch=1)) as segmenter:
        cameras = [IterableSource(frames(10)), IterableSource(frames(10)), IterableSource(frames(10))]
        now = Pipeline(cameras, segmenter).run()
    assert [camera.delivered for camera in now.cameras] == [10, 10, 10]
    assert now.inferences == 30


def test_it_ends_after_max_frames() -> None:
    seen = []
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        both = [IterableSource(frames(50)), IterableSource(frames(50))]
        now = Pipeline(both, segmenter, [seen.append], max_frames=7).run()
    assert len(seen) == now.delivered == 7
    assert counts_add_up(now) and now.in_flight == 0


def test_labels_are_smoothed_for_each_camera() -> None:
    def rule(images):
        return images[..., 0] % 2

    steady, flicker = frames(1) * 6, [*frames(1) * 3, *frames(1, 1), *frames(1) * 2]
    for smoothing, most in ((None, 1), (2, 0)):
        shown: dict[int, list[int]] = {0: [], 1: []}
        with Segmenter(FakeRuntime(rule=rule)) as segmenter:
            cameras = [IterableSource(steady), IterableSource(flicker)]
            for delivery in Pipeline(cameras, segmenter, smoothing=smoothing):
                shown[delivery.frame.camera].append(int(delivery.labels.max()))
        assert shown[0] == [0] * 6
        assert max(shown[1]) == most and len(shown[1]) == 6


class Unlucky:
    """Fails on these frames."""

    def __init__(self, *indices: int) -> None:
        self.indices = indices

    def __call__(self, delivery) -> None:
        if delivery.frame.index in self.indices:
            raise OSError("no space")


def test_failed_frames_are_counted_and_logged_once_under_continue(caplog) -> None:
    """Not twice within ten seconds, and once more when many had failed and they pass again."""
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        pipeline = Pipeline(
            IterableSource(frames(30)), segmenter, [Unlucky(3, 4, 5, 20)], on_error="continue"
        )
        now = pipeline.run()
    assert (now.captured, now.delivered, now.failed) == (30, 26, 4)
    messages = [record.getMessage() for record in caplog.records]
    assert [line.split(" ")[0] for line in messages] == ["a", "3"]
    assert "frame 000003 (no space)" in messages[0]


def test_fifty_failures_in_a_row_end_the_run_under_continue() -> None:
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        pipeline = Pipeline(
            IterableSource(frames(200)), segmenter, [Unlucky(*range(200))], on_error="continue"
        )
        with pytest.raises(PipelineError, match=r"50 frames failed one after the other.*no space"):
            pipeline.run()
    now = pipeline.statistics()
    assert 50 <= now.failed < 60 and counts_add_up(now) and now.in_flight == 0


def broken_after(count: int):
    yield from frames(count)
    raise RuntimeError("cable")


def test_a_lost_camera_leaves_the_others_running() -> None:
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        cameras = [IterableSource(broken_after(3)), IterableSource(frames(20))]
        now = Pipeline(cameras, segmenter, on_error="continue").run()
    assert [camera.delivered for camera in now.cameras] == [3, 20]
    assert "cable" in now.cameras[0].message


def test_the_last_lost_camera_ends_it() -> None:
    with Segmenter(FakeRuntime(rule=2)) as segmenter:
        cameras = [IterableSource(broken_after(3)), IterableSource(broken_after(5))]
        pipeline = Pipeline(cameras, segmenter, on_error="continue")
        with pytest.raises(PipelineError, match="cable"):
            pipeline.run()
    assert pipeline.statistics().delivered == 8


def test_the_event_loop_stays_free_and_leaving_ends_the_run() -> None:
    async def watch(pipeline: Pipeline) -> tuple[list[int], int]:
        ticks, seen = 0, []

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        async with contextlib.aclosing(aiter(pipeline)) as deliveries:
            async for delivery in deliveries:
                seen.append(delivery.frame.index)
                if len(seen) == 5:
                    break
        ticking.cancel()
        return seen, ticks

    with Segmenter(FakeRuntime(rule=2, delay=0.01)) as segmenter:
        pipeline = Pipeline(IterableSource(frames(500)), segmenter)
        seen, ticks = asyncio.run(watch(pipeline))
    assert seen == [0, 1, 2, 3, 4]
    assert ticks > 5
    now = pipeline.statistics()
    assert counts_add_up(now) and now.in_flight == 0


def test_a_cancelled_task_ends_the_run() -> None:
    async def watch(pipeline: Pipeline) -> None:
        async for _ in pipeline:
            pass

    async def cancel(pipeline: Pipeline) -> None:
        task = asyncio.create_task(watch(pipeline))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Segmenter(FakeRuntime(rule=2, delay=0.01)) as segmenter:
        pipeline = Pipeline(IterableSource(frames(2000)), segmenter)
        asyncio.run(cancel(pipeline))
        now = pipeline.statistics()
    assert 0 < now.delivered < 2000 and counts_add_up(now) and now.in_flight == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"on_error": "ignore"}, "on_error must be stop or continue"),
        ({"max_frames": 0}, "max_frames must be at least 1"),
        ({"smoothing": 1}, "2 to 255"),
        ({"sources": []}, "needs a source"),
        ({"sources": IterableSource([], color_order="rgb")}, "expects bgr"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_calls(arguments, part: str) -> None:
    with Segmenter(FakeRuntime(rule=2)) as segmenter, pytest.raises(UsageError, match=part):
        Pipeline(arguments.pop("sources", IterableSource(frames(1))), segmenter, **arguments)


def test_frames_are_freed_without_the_garbage_collector() -> None:
    """A cycle through an answer would keep hundreds of frames, and memory would swing and creep."""
    made: list[weakref.ref[np.ndarray]] = []

    def endless():
        for index in range(60):
            frame = np.full((4, 6, 3), index, np.uint8)
            made.append(weakref.ref(frame))
            yield frame

    most = 0

    def look(_: object) -> None:
        nonlocal most
        most = max(most, sum(each() is not None for each in made))

    gc.collect()
    gc.disable()
    try:
        with Segmenter(FakeRuntime(rule=2)) as segmenter:
            Pipeline(IterableSource(endless()), segmenter, [look]).run()
    finally:
        gc.enable()
    assert len(made) == 60
    assert most <= 12  # read ahead, with the model, being delivered
