"""Whatever breaks: the run ends, says what broke, closes what is open, and every frame is accounted for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deadline import in_time, soon
from pipeline_runs import Failing, GeneratedSource, RecordingSink, camera_threads, echo, images, outcome

from fcn_deploy.camera import CameraFrame, Delivery, IterableSource, Pipeline, Source
from fcn_deploy.camera.pipeline import pipeline
from fcn_deploy.camera.sinks.base import StopPipeline
from fcn_deploy.errors import FcnDeployError, InferenceError, PipelineError, SourceError, UsageError
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime


@pytest.fixture
def segmenter() -> Iterator[Segmenter]:
    with Segmenter(FakeRuntime(rule=echo)) as made:
        yield made


def endless(stopping: threading.Event, size: tuple[int, int] = (2, 3), gap: float = 0.0005) -> Iterator[Any]:
    """A camera that goes on until it is told to stop."""
    for number in range(10**9):
        if stopping.wait(gap):
            return
        yield images(1, size, number)[0]


def raise_it(error: BaseException) -> None:
    raise error


def at(index: int, act: Callable[[], object]) -> Callable[[Delivery], object]:
    return lambda delivery: act() if delivery.frame.index == index else None


# Sources.


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("good", [0, 1, 7])
def test_a_source_that_fails_is_named(segmenter: Segmenter, good: int, live: bool) -> None:
    def broken(stopping: threading.Event) -> Iterator[Any]:
        yield from images(good)
        raise OSError("cable pulled")

    sink, source = RecordingSink(), GeneratedSource(broken, "the gate camera", live)
    raised, now = outcome(Pipeline(source, segmenter, [sink]), [sink])
    assert isinstance(raised, PipelineError) and isinstance(raised.__cause__, OSError)
    assert "the gate camera" in str(raised) and "cable pulled" in str(raised)
    assert now.captured == good and source.released == 1
    assert "cable pulled" in now.cameras[0].message


def test_frames_before_the_one_that_a_source_fails_on_are_delivered() -> None:
    def broken(stopping: threading.Event) -> Iterator[Any]:
        yield from images(3)
        raise SourceError("d.png is damaged")

    sink = RecordingSink()
    with Segmenter(FakeRuntime(rule=echo, delay=0.05)) as slow:  # they wait when it fails
        raised, now = outcome(Pipeline(GeneratedSource(broken), slow, [sink]), [sink])
    assert isinstance(raised, SourceError)
    assert (now.captured, now.delivered, sink.count) == (3, 3, 3)


def test_a_sources_own_error_keeps_its_class(segmenter: Segmenter) -> None:
    def broken(stopping: threading.Event) -> Iterator[Any]:
        raise SourceError("clip.mp4 is damaged")
        yield

    raised, _ = outcome(Pipeline(GeneratedSource(broken, "clip.mp4"), segmenter))
    assert isinstance(raised, SourceError) and str(raised) == "clip.mp4 is damaged"


def test_a_source_that_fails_before_it_gives_an_iterator(segmenter: Segmenter) -> None:
    class Closed(Source):
        def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
            raise OSError("no such device")

    sink = RecordingSink()
    raised, now = outcome(Pipeline(Closed("left", live=True), segmenter, [sink]), [sink])
    assert "left" in str(raised) and "no such device" in str(raised)
    assert now.captured == 0


def test_frames_from_any_iterator(segmenter: Segmenter) -> None:
    class Listed(Source):
        def frames(self, stopping: threading.Event) -> Iterator[CameraFrame]:
            return iter(
                [CameraFrame(image, str(i), i, time.monotonic()) for i, image in enumerate(images(5))]
            )

    raised, now = outcome(Pipeline(Listed("listed", live=False), segmenter))
    assert raised is None, "an iterator need not have close()"
    assert now.delivered == 5


def test_no_frames_at_all(segmenter: Segmenter) -> None:
    sink = RecordingSink()
    raised, now = outcome(Pipeline(IterableSource([]), segmenter, [sink]), [sink])
    assert raised is None and (now.captured, now.age) == (0, None)


@pytest.mark.parametrize("live", [False, True])
def test_a_source_that_stops_late_is_waited_for(segmenter: Segmenter, live: bool) -> None:
    def deaf(stopping: threading.Event) -> Iterator[Any]:
        yield from images(3)
        time.sleep(0.4)
        yield from images(50, first=3)

    sink, source = RecordingSink(), GeneratedSource(deaf, live=live)
    made = Pipeline(source, segmenter, [sink])
    threading.Timer(0.1, made.stop).start()
    raised, now = outcome(made, [sink])
    assert raised is None and source.released == 1
    assert now.captured == 4 and now.dropped >= 1


def test_a_source_that_hangs_is_abandoned(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_CAPTURE_END_TIMEOUT", 0.2)
    driver = threading.Event()

    def hangs(stopping: threading.Event) -> Iterator[Any]:
        yield from images(2)
        driver.wait(5)
        yield from images(2)

    others, sink = camera_threads(), RecordingSink()
    made = Pipeline([GeneratedSource(hangs, "hung"), GeneratedSource(endless, "well")], segmenter, [sink])
    threading.Timer(0.1, made.stop).start()
    in_time(made.run)
    assert sink.closed == 1
    assert soon(lambda: len(camera_threads() - others) == 1)
    driver.set()  # what comes too late is counted too
    assert soon(lambda: camera_threads() <= others)
    now = made.statistics().cameras[0]
    assert (now.captured, now.delivered, now.dropped, now.in_flight) == (3, 2, 1, 0)


def test_a_lost_camera_leaves_the_others_running_under_continue(segmenter: Segmenter) -> None:
    def broken(stopping: threading.Event) -> Iterator[Any]:
        yield from images(3)
        raise OSError("cable pulled")

    sink = RecordingSink()
    sources = [GeneratedSource(broken, "left"), IterableSource(images(60))]
    raised, now = outcome(Pipeline(sources, segmenter, [sink], on_error="continue"), [sink])
    assert raised is None
    assert sink.seen == {0: [0, 1, 2], 1: list(range(60))}
    assert "cable pulled" in now.cameras[0].message


def test_the_loss_of_all_cameras_is_an_error(segmenter: Segmenter) -> None:
    def broken(stopping: threading.Event) -> Iterator[Any]:
        yield from images(3)
        raise OSError("cable pulled")

    sink = RecordingSink()
    sources = [GeneratedSource(broken, "left"), GeneratedSource(broken, "right")]
    raised, now = outcome(Pipeline(sources, segmenter, [sink], on_error="continue"), [sink])
    assert isinstance(raised, PipelineError) and ("left" in str(raised) or "right" in str(raised))
    assert now.delivered == 6, "what was captured before is delivered"


# The model.


@pytest.mark.parametrize("number", [0, 1, 9])
def test_a_frame_that_the_model_fails_on_is_named(number: int) -> None:
    sink = RecordingSink()
    with Segmenter(FakeRuntime(rule=Failing(number))) as segmenter:
        raised, now = outcome(Pipeline(IterableSource(images(30)), segmenter, [sink]), [sink])
    assert isinstance(raised, InferenceError)
    assert f"frame {number:06d}" in str(raised) and "device lost" in str(raised)
    assert now.failed == 1
    assert sink.seen.get(0, [])[:number] == list(range(number)), "frames before it were lost"


def test_a_failed_frame_is_skipped_under_continue() -> None:
    sink = RecordingSink()
    with Segmenter(FakeRuntime(rule=Failing(4))) as segmenter:
        made = Pipeline(IterableSource(images(30)), segmenter, [sink], on_error="continue")
        raised, now = outcome(made, [sink])
    assert raised is None
    assert sink.seen == {0: [n for n in range(30) if n != 4]}
    assert (now.failed, now.dropped, now.delivered) == (1, 0, 29)


def test_all_frames_of_a_failing_inference_are_named() -> None:
    sources = [IterableSource(images(1, first=n)) for n in range(2)]
    with Segmenter(FakeRuntime(rule=Failing(0), delay=0.05)) as segmenter:
        raised, now = outcome(Pipeline(sources, segmenter))
    assert "camera 0" in str(raised)
    assert ("camera 1" in str(raised)) is (now.failed == 2)


def test_fifty_failed_inferences_in_a_row_end_the_run_under_continue() -> None:
    def broken(frames: Any) -> Any:
        raise RuntimeError("device lost")

    sink = RecordingSink()
    with Segmenter(FakeRuntime(rule=broken)) as segmenter:
        made = Pipeline(GeneratedSource(endless), segmenter, [sink], on_error="continue")
        raised, now = outcome(made, [sink])
    assert isinstance(raised, InferenceError) and "device lost" in str(raised)
    assert 50 <= now.failed <= 55 and now.delivered == 0


def test_a_closed_segmenter_is_an_error_and_not_a_deadlock() -> None:
    opened = Segmenter(FakeRuntime(rule=echo))
    sink = RecordingSink(at(3, opened.close))
    raised, _ = outcome(Pipeline(IterableSource(images(30)), opened, [sink]), [sink])
    assert isinstance(raised, FcnDeployError) and "frame" in str(raised)


@pytest.mark.parametrize("cancelled", [1, 2])
def test_leaving_after_the_segmenter_was_closed(cancelled: int) -> None:
    """A program whose ``with`` block ends before its loop does: answers in the queue were cancelled."""
    sink = RecordingSink()
    segmenter = Segmenter(FakeRuntime(rule=echo, delay=0.05))
    made = Pipeline(IterableSource(images(30)), segmenter, [sink])

    def leave() -> None:
        loop = iter(made)
        for _ in range(cancelled):
            next(loop)
        time.sleep(0.01)  # one is being made, one waits for it
        segmenter.close()
        loop.close()

    outcome(made, [sink], leave)


def test_an_error_of_max_batch_ends_the_run() -> None:
    class Mute:
        spec = FakeRuntime(rule=0).spec

        @property
        def max_batch(self) -> int:
            raise RuntimeError("context destroyed")

    sink = RecordingSink()
    made = Pipeline(IterableSource(images(30)), Mute(), [sink])  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda args: None)
        raised, _ = outcome(made, [sink])
    assert raised is not None and "context destroyed" in str(raised)


@pytest.mark.parametrize("live", [False, True])
def test_stopping_waits_for_the_running_inference(live: bool) -> None:
    sink = RecordingSink()
    with Segmenter(FakeRuntime(rule=echo, delay=0.3)) as segmenter:
        made = Pipeline(GeneratedSource(endless, live=live), segmenter, [sink])
        threading.Timer(0.1, made.stop).start()
        raised, now = outcome(made, [sink])
    assert raised is None and now.delivered == sink.count >= 1


# Sinks.


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("index", [0, 6])
def test_a_sink_that_fails_names_the_frame(segmenter: Segmenter, index: int, live: bool) -> None:
    def act(delivery: Delivery) -> None:
        if delivery.frame.index >= index:
            raise OSError("no space left")

    first, second = RecordingSink(act), RecordingSink()
    raised, now = outcome(
        Pipeline(GeneratedSource(endless, live=live), segmenter, [first, second]), [first, second]
    )
    assert isinstance(raised, PipelineError) and isinstance(raised.__cause__, OSError)
    assert "no space left" in str(raised) and "frame 0000" in str(raised)
    assert now.failed >= 1 and second.count == now.delivered + now.failed


def test_the_first_error_is_the_one_raised(segmenter: Segmenter) -> None:
    class Twice(RecordingSink):
        def close(self) -> None:
            super().close()
            raise OSError("the second error")

    sinks = [Twice(at(2, lambda: raise_it(OSError("the first error")))), RecordingSink()]
    raised, _ = outcome(Pipeline(IterableSource(images(9)), segmenter, sinks), sinks)
    assert "the first error" in str(raised) and "frame 000002" in str(raised)


def test_a_sink_that_cannot_be_closed_is_an_error_and_the_others_are_closed(segmenter: Segmenter) -> None:
    class Bad(RecordingSink):
        def close(self) -> None:
            super().close()
            raise OSError("no space for the index")

    sinks = [Bad(), RecordingSink()]
    raised, now = outcome(Pipeline(IterableSource(images(9)), segmenter, sinks), sinks)
    assert isinstance(raised, PipelineError) and "no space for the index" in str(raised)
    assert now.delivered == 9


def test_an_error_of_close_is_logged_when_the_loop_is_left(
    segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(RecordingSink):
        def close(self) -> None:
            super().close()
            raise OSError("no space for the index")

    sink = Bad()
    made = Pipeline(IterableSource(images(30)), segmenter, [sink])

    def leave() -> None:
        loop = iter(made)
        next(loop)
        loop.close()

    raised, _ = outcome(made, [sink], leave)
    assert "no space for the index" in caplog.text + str(raised)


@pytest.mark.parametrize("index", [0, 5])
def test_a_sink_that_fails_on_one_frame_is_called_again_under_continue(
    segmenter: Segmenter, index: int
) -> None:
    sink = RecordingSink(at(index, lambda: raise_it(ValueError("odd frame"))))
    made = Pipeline(IterableSource(images(20)), segmenter, [sink], on_error="continue")
    raised, now = outcome(made, [sink])
    assert raised is None and (now.failed, now.delivered, now.dropped) == (1, 19, 0)
    assert sink.seen == {0: list(range(20))}


def test_a_slow_sink_drops_no_frame_of_a_file(segmenter: Segmenter) -> None:
    sink = RecordingSink(lambda _: time.sleep(0.005))
    raised, now = outcome(Pipeline(IterableSource(images(60)), segmenter, [sink]), [sink])
    assert raised is None and (now.delivered, now.dropped) == (60, 0)


def test_a_slow_sink_drops_frames_of_a_camera_and_ages_stay_low(segmenter: Segmenter) -> None:
    ages: list[float] = []

    def act(delivery: Delivery) -> None:
        ages.append(delivery.age)
        time.sleep(0.02)

    sink = RecordingSink(act)
    made = Pipeline(GeneratedSource(endless, live=True), segmenter, [sink], max_frames=25)
    raised, now = outcome(made, [sink])
    assert raised is None and now.delivered == 25 and now.dropped > 50
    assert np.median(ages[10:]) < 0.1, "frames queued up"


@pytest.mark.parametrize("index", [0, 5])
def test_stop_pipeline_ends_the_run(segmenter: Segmenter, index: int) -> None:
    stopped = RecordingSink(at(index, lambda: raise_it(StopPipeline())))
    before, after = RecordingSink(), RecordingSink()
    sinks = [before, stopped, after]
    raised, now = outcome(Pipeline(IterableSource(images(60)), segmenter, sinks), sinks)
    assert raised is None and now.failed == 0
    assert index + 1 <= now.delivered < 60
    assert before.count == after.count == now.delivered, "a delivered frame is one that reached every sink"


def test_a_sink_that_raised_stop_pipeline_is_not_called_again(segmenter: Segmenter) -> None:
    # A paused window that q was pressed in would ask for q again, for every frame still to come.
    def press_q() -> None:
        time.sleep(0.05)  # more answers are there by now
        raise StopPipeline

    sink = RecordingSink(at(5, press_q))
    raised, _ = outcome(Pipeline(IterableSource(images(60)), segmenter, [sink]), [sink])
    assert raised is None and sink.seen == {0: list(range(6))}


# Stopping.


@pytest.mark.parametrize("live", [False, True])
def test_stop_from_another_thread_at_any_moment(segmenter: Segmenter, live: bool) -> None:
    for step in range(12):
        sink = RecordingSink()
        made = Pipeline([GeneratedSource(endless, live=live), GeneratedSource(endless)], segmenter, [sink])
        timer = threading.Timer(step * 0.003, made.stop)
        timer.start()
        raised, now = outcome(made, [sink])
        assert raised is None and now.delivered == sink.count
        timer.join()


def test_stop_before_it_runs(segmenter: Segmenter) -> None:
    sink = RecordingSink()
    made = Pipeline(GeneratedSource(endless), segmenter, [sink])
    made.stop()
    raised, now = outcome(made, [sink])
    assert raised is None and now.delivered == 0


@pytest.mark.parametrize("where", ["sink", "source", "model"])
def test_stop_from_inside(where: str) -> None:
    def source(stopping: threading.Event) -> Iterator[Any]:
        for image in endless(stopping):
            if where == "source" and image[0, 0, 0] == 10:
                made.stop()
            yield image

    def model(frames: Any) -> Any:
        if where == "model" and frames[0, 0, 0, 0] == 10:
            made.stop()
        return echo(frames)

    sink = RecordingSink(at(10, lambda: made.stop()) if where == "sink" else None)
    with Segmenter(FakeRuntime(rule=model)) as segmenter:
        made = Pipeline(GeneratedSource(source), segmenter, [sink])
        raised, now = outcome(made, [sink])
        assert raised is None and now.delivered == sink.count > 3
        made.stop()  # again, and after its end


@pytest.mark.parametrize("how", ["run", "iterate"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_sink_is_raised_after_every_sink_is_closed(
    segmenter: Segmenter, how: str, error: type[BaseException]
) -> None:
    sinks = [RecordingSink(), RecordingSink(at(5, lambda: raise_it(error()))), RecordingSink()]
    made = Pipeline(GeneratedSource(endless), segmenter, sinks)

    def iterate() -> None:
        for _ in made:
            pass

    raised, _ = outcome(made, sinks, made.run if how == "run" else iterate)
    assert isinstance(raised, error)


_INTERRUPTED = """
    import faulthandler, os, signal, sys, threading, time
    faulthandler.dump_traceback_later(15, exit=True)
    sys.path.insert(0, FOLDER)
    from pipeline_runs import GeneratedSource, RecordingSink, camera_threads, echo, images
    from fcn_deploy.camera import Pipeline
    from fcn_deploy.testing import FakeRuntime
    from fcn_deploy.runtimes.segmenter import Segmenter

    def endless(stopping):
        while not stopping.wait(0.0005):
            yield from images(1)

    def interrupt(delivery):
        if HOW == "in the sink" and delivery.frame.index == 20:
            signal.raise_signal(signal.SIGINT)

    sink = RecordingSink(interrupt)
    sink.in_caller_thread = HOW in ("in the caller's thread", "in the sink")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Segmenter(FakeRuntime(rule=echo, delay=0.002)) as segmenter:
        pipeline = Pipeline(GeneratedSource(endless), segmenter, [sink])
        if HOW != "in the sink":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            if HOW == "iterating":
                for _ in pipeline:
                    pass
            else:
                pipeline.run()
        except KeyboardInterrupt:
            now = pipeline.statistics()
            time.sleep(0.05)
            assert not camera_threads(), camera_threads()
            assert sink.closed == 1 and now.in_flight == 0, now
            assert now.captured == now.delivered + now.dropped + now.failed
            assert sink.count - now.delivered in (0, 1) and now.delivered > 5, now
            print("interrupted", now)
"""


@pytest.mark.parametrize("how", ["run", "in the caller's thread", "iterating", "in the sink"])
def test_ctrl_c_ends_it(how: str) -> None:
    folder = str(Path(__file__).parents[1])
    script = f"FOLDER, HOW = {folder!r}, {how!r}\n{textwrap.dedent(_INTERRUPTED)}"
    begun = time.monotonic()
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("interrupted"), run.stdout + run.stderr
    assert time.monotonic() - begun < 10


# Several cameras.


def test_cameras_of_different_rates_and_sizes() -> None:
    sink = RecordingSink()
    fast = GeneratedSource(lambda stopping: endless(stopping, (4, 6), 0.001), "fast", live=True)
    slow = GeneratedSource(lambda stopping: endless(stopping, (6, 4), 0.02), "slow", live=True)
    with Segmenter(FakeRuntime(rule=echo, delay=0.005)) as segmenter:
        made = Pipeline([fast, slow], segmenter, [sink])
        threading.Timer(0.6, made.stop).start()
        raised, now = outcome(made, [sink])
    assert raised is None
    assert now.cameras[0].dropped > now.cameras[0].delivered > 10
    assert now.cameras[1].delivered > 0.7 * now.cameras[1].captured > 3, "the slow one was pushed aside"


def test_a_camera_that_ends_early_leaves_the_other_running(segmenter: Segmenter) -> None:
    sink = RecordingSink()
    sources = [IterableSource(images(5, (4, 6))), IterableSource(images(80))]
    raised, now = outcome(Pipeline(sources, segmenter, [sink]), [sink])
    assert raised is None and now.dropped == 0
    assert sink.seen == {0: list(range(5)), 1: list(range(80))}


@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_no_frame_of_a_file_is_dropped_for_any_batch(most: int | None) -> None:
    sink = RecordingSink()
    counts = [31, 1, 17, 24]
    sources = [IterableSource(images(n, (2, 3 + i % 2))) for i, n in enumerate(counts)]
    with Segmenter(FakeRuntime(rule=echo, max_batch=most)) as segmenter:
        raised, now = outcome(Pipeline(sources, segmenter, [sink]), [sink])
    assert raised is None and now.delivered == sum(counts)
    assert sink.seen == {camera: list(range(count)) for camera, count in enumerate(counts)}


def test_a_size_that_changes_during_the_run(segmenter: Segmenter) -> None:
    sink = RecordingSink()
    changing = images(9, (4, 6)) + images(9, (6, 4), 9)
    sources = [IterableSource(changing), IterableSource(images(18, (4, 6)))]
    raised, _ = outcome(Pipeline(sources, segmenter, [sink]), [sink])
    assert raised is None and sink.seen == {0: list(range(18)), 1: list(range(18))}


@pytest.mark.parametrize("most", [1, 2, 7])
def test_it_ends_after_so_many_frames(segmenter: Segmenter, most: int) -> None:
    sink = RecordingSink()
    sources = [GeneratedSource(endless), GeneratedSource(endless)]
    raised, now = outcome(Pipeline(sources, segmenter, [sink], max_frames=most), [sink])
    assert raised is None and now.delivered == sink.count == most


# Iterating.


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("leave_by", ["break", "close", "exception", "forgetting"])
def test_leaving_the_loop_early(segmenter: Segmenter, leave_by: str, live: bool) -> None:
    sink = RecordingSink()
    made = Pipeline(GeneratedSource(endless, live=live), segmenter, [sink])

    def leave() -> None:
        for number, delivery in enumerate(made):
            assert sink.seen[0][number] == delivery.frame.index, "the sinks have it first"
            if number == 3 and leave_by == "exception":
                raise ZeroDivisionError
            if number == 3:
                break

    def forget() -> None:
        loop = iter(made)
        for _ in range(4):
            next(loop)
        if leave_by == "close":
            loop.close()

    raised, now = outcome(made, [sink], leave if leave_by in ("break", "exception") else forget)
    assert raised is None or isinstance(raised, ZeroDivisionError)
    assert now.delivered == 4 and sink.count == 4
    assert segmenter.infer(images(1)[0]).labels.shape == (1, 2, 3), "the segmenter stays open"


def test_it_runs_once(segmenter: Segmenter) -> None:
    sink = RecordingSink()
    made = Pipeline(IterableSource(images(9)), segmenter, [sink])
    outcome(made, [sink])
    raised, now = outcome(made, [sink])
    assert isinstance(raised, UsageError) and now.delivered == 9


@pytest.mark.parametrize("how", ["run", "iterate", "async"])
def test_a_second_run_does_not_disturb_the_first(segmenter: Segmenter, how: str) -> None:
    async def again() -> None:
        async for _ in made:
            pass

    def second() -> None:
        with pytest.raises(UsageError, match="once"):
            if how == "run":
                made.run()
            elif how == "iterate":
                next(iter(made))
            else:
                asyncio.run(again())

    sink = RecordingSink(at(5, lambda: in_time(second)))
    made = Pipeline(IterableSource(images(60)), segmenter, [sink])
    raised, now = outcome(made, [sink], seconds=4)
    assert raised is None and now.delivered == 60


@pytest.mark.parametrize("leave_by", ["end", "break", "cancel", "error"])
def test_asyncio(segmenter: Segmenter, leave_by: str) -> None:
    sink = RecordingSink(at(8, lambda: raise_it(OSError("no space"))) if leave_by == "error" else None)
    made = Pipeline(
        IterableSource(images(40)) if leave_by == "end" else GeneratedSource(endless), segmenter, [sink]
    )
    seen: list[int] = []

    async def consume() -> None:
        deliveries = aiter(made)
        try:
            async for delivery in deliveries:
                seen.append(delivery.frame.index)
                if leave_by == "break" and len(seen) == 4:
                    break
        finally:
            await deliveries.aclose()  # type: ignore[attr-defined]

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        if leave_by == "cancel":
            await asyncio.sleep(0.05)
            task.cancel()
        await task

    raised, now = outcome(made, [sink], lambda: asyncio.run(main()))
    assert soon(lambda: not any("asyncio" in t.name for t in threading.enumerate() if "fcn" in t.name))
    assert seen == sorted(seen)
    if leave_by == "end":
        assert raised is None and seen == list(range(40)) and now.delivered == 40
    elif leave_by == "break":
        assert raised is None and len(seen) == 4
    elif leave_by == "cancel":
        assert isinstance(raised, asyncio.CancelledError)
    else:
        assert isinstance(raised, PipelineError) and "frame 000008" in str(raised)
