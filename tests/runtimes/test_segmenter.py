"""One frame or many, from one thread or many, ahead of time or in a stream; and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.errors import InferenceError, SourceError, UsageError
from fcn_deploy.runtimes.registry import load
from fcn_deploy.runtimes.segmenter import IN_FLIGHT, Segmenter
from fcn_deploy.testing import FakeRuntime


def echo(frames: np.ndarray) -> np.ndarray:
    """Labels are the first channel."""
    return frames[..., 0].copy()


def frame(value: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


class Gate:
    """A rule that waits until it is opened, and counts."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls = 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.entered.set()
        assert self.open.wait(10)
        return echo(frames)


@pytest.fixture
def segmenter() -> Iterator[Segmenter]:
    with Segmenter(FakeRuntime(echo)) as opened:
        yield opened


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def workers() -> int:
    return sum(thread.name.startswith("fcn-deploy") for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = workers()
    yield
    assert workers() == before


@given(shape=st.tuples(*[st.integers(1, 9)] * 3))
def test_a_frame_or_a_batch(shape: tuple[int, int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with Segmenter(FakeRuntime(echo)) as segmenter:
        np.testing.assert_array_equal(segmenter.infer(frames).labels, frames[..., 0])
        np.testing.assert_array_equal(segmenter(frames[0]).labels, frames[:1, ..., 0])


def test_it_tells_what_it_is(segmenter: Segmenter) -> None:
    assert (segmenter.backend, segmenter.device, segmenter.precision) == ("fake", "cpu", "fp32")
    assert segmenter.spec.num_classes == 11
    assert segmenter.details() == {}


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (np.zeros((4, 5), np.uint8), r"found shape \(4, 5\); a grayscale frame"),
        (np.zeros((4, 5, 4), np.uint8), r"found shape \(4, 5, 4\); drop the fourth channel"),
        (np.zeros((4, 5, 3), np.float32), "must be uint8, not float32"),
        (np.zeros((0, 5, 3), np.uint8), "must not be empty"),
        (np.zeros((5000, 5, 3), np.uint8), "larger than this model's limit"),
        ([[[0, 0, 0]]], "must be a numpy array, not list"),
    ],
)
def test_a_bad_frame_is_refused_however_it_comes(segmenter: Segmenter, frames: object, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        segmenter.infer(frames)
    segmenter.submit(frames)
    with pytest.raises(SourceError, match=told):
        segmenter.result()
    with pytest.raises(SourceError, match=told):
        list(segmenter.stream([frames]))
    assert segmenter.infer(frame(7)).labels[0, 0, 0] == 7


def test_a_contiguous_frame_is_never_copied() -> None:
    given_frame = frame(3)
    shared = []

    def rule(frames: np.ndarray) -> np.ndarray:
        shared.append(np.shares_memory(frames, given_frame))
        return echo(frames)

    with Segmenter(FakeRuntime(rule)) as segmenter:
        segmenter.infer(given_frame)
        segmenter.submit(given_frame)
        segmenter.result()
        list(segmenter.stream([given_frame]))
    assert shared == [True, True, True]


def test_answers_come_in_the_order_of_submission(segmenter: Segmenter) -> None:
    collected = []
    for value in range(20):
        segmenter.submit(frame(value))
        if value >= IN_FLIGHT - 1:
            collected.append(int(segmenter.result().labels[0, 0, 0]))
    while len(collected) < 20:
        collected.append(int(segmenter.result().labels[0, 0, 0]))
    assert collected == list(range(20))


def test_submit_does_not_wait_for_the_answer(gate: Gate) -> None:
    with Segmenter(FakeRuntime(gate)) as segmenter:
        segmenter.submit(frame(1))
        segmenter.submit(frame(2))
        gate.open.set()
        assert [int(segmenter.result().labels[0, 0, 0]) for _ in range(2)] == [1, 2]


def test_a_third_frame_in_flight_is_refused_instead_of_waiting_for_ever(gate: Gate) -> None:
    with Segmenter(FakeRuntime(gate)) as segmenter:
        for value in range(IN_FLIGHT):
            segmenter.submit(frame(value))
        with pytest.raises(UsageError, match=r"2 frames are in flight already; call result\(\)"):
            segmenter.submit(frame(9))
        gate.open.set()
        segmenter.result()
        segmenter.submit(frame(3))
        assert [int(segmenter.result().labels[0, 0, 0]) for _ in range(2)] == [1, 3]


def test_result_without_submit_is_refused_instead_of_waiting_for_ever(segmenter: Segmenter) -> None:
    with pytest.raises(UsageError, match="no frame is in flight"):
        segmenter.result()


def test_an_error_belongs_to_its_own_frame() -> None:
    def rule(frames: np.ndarray) -> np.ndarray:
        if frames[0, 0, 0, 0] == 1:
            raise RuntimeError("a bad one")
        return echo(frames)

    with Segmenter(FakeRuntime(rule)) as segmenter:
        segmenter.submit(frame(1))
        segmenter.submit(frame(2))
        with pytest.raises(InferenceError, match="a bad one"):
            segmenter.result()
        assert segmenter.result().labels[0, 0, 0] == 2


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_stream_pairs_each_frame_with_its_answer(segmenter: Segmenter, count: int) -> None:
    frames = [frame(i, 3 + i, 9 - i) for i in range(count)]
    pairs = list(segmenter.stream(frames))
    assert [id(given_frame) for given_frame, _ in pairs] == [id(f) for f in frames]
    for given_frame, answer in pairs:
        np.testing.assert_array_equal(answer.labels[0], given_frame[..., 0])


def test_a_stream_keeps_one_frame_in_flight_while_the_last_is_used() -> None:
    """The second frame is being labelled before the consumer asks for it."""
    second = threading.Event()

    def rule(frames: np.ndarray) -> np.ndarray:
        if frames[0, 0, 0, 0] == 1:
            second.set()
        return echo(frames)

    taken = []

    def source() -> Iterator[np.ndarray]:
        for value in range(5):
            taken.append(value)
            yield frame(value)

    with Segmenter(FakeRuntime(rule)) as segmenter:
        stream = segmenter.stream(source())
        next(stream)
        assert second.wait(10)
        assert taken == [0, 1], "it must not read further ahead than one frame"
        stream.close()


class Source:
    """Frames without end whose iterator notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                yield frame(1)
        finally:
            self.closed = True


def test_a_consumer_that_stops_early_leaves_nothing_running(gate: Gate) -> None:
    source = Source()
    gate.open.set()
    with Segmenter(FakeRuntime(gate)) as segmenter:
        for _ in segmenter.stream(source):
            break
        assert source.closed
        calls = gate.calls
        time.sleep(0.02)
        assert gate.calls == calls
        assert segmenter.infer(frame(2)).labels[0, 0, 0] == 2


def test_an_iterator_handed_in_stays_the_callers(segmenter: Segmenter) -> None:
    mine = iter(Source())
    stream = segmenter.stream(mine)
    next(stream)
    stream.close()
    assert next(mine).shape == (4, 5, 3)


def test_an_error_ends_a_stream_at_its_frame_and_closes_the_source() -> None:
    source = Source()

    def rule(frames: np.ndarray) -> np.ndarray:
        raise RuntimeError("a bad one")

    with Segmenter(FakeRuntime(rule)) as segmenter:
        with pytest.raises(InferenceError, match="a bad one"):
            next(segmenter.stream(source))
        assert source.closed


def test_an_error_of_the_source_reaches_the_consumer(segmenter: Segmenter) -> None:
    def source() -> Iterator[np.ndarray]:
        yield frame(1)
        raise SourceError("the video is cut off")

    with pytest.raises(SourceError, match="cut off"):
        list(segmenter.stream(source()))


def test_a_stream_and_submissions_do_not_mix_up(segmenter: Segmenter) -> None:
    segmenter.submit(frame(100))
    seen = [int(answer.labels[0, 0, 0]) for _, answer in segmenter.stream(frame(i) for i in range(5))]
    assert seen == list(range(5))
    assert segmenter.result().labels[0, 0, 0] == 100


def test_warming_up_runs_frames_of_that_size() -> None:
    shapes = []

    def rule(frames: np.ndarray) -> np.ndarray:
        shapes.append(frames.shape)
        return echo(frames)

    with Segmenter(FakeRuntime(rule)) as segmenter:
        segmenter.warm_up(6, 7, batch=2, runs=4)
    assert shapes == [(2, 6, 7, 3)] * 4


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (5, 5, 0), (5, 5, 1, 0), (-1, 5), (5, 5, -2)])
def test_warming_up_with_nothing_is_refused(segmenter: Segmenter, size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="must be at least 1, not"):
        segmenter.warm_up(*size)


def test_warming_up_beyond_the_limit_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(SourceError, match="larger than this model's limit"):
        segmenter.warm_up(100_000, 8)


USES: dict[str, Callable[[Segmenter], object]] = {
    "infer": lambda s: s.infer(frame(0)),
    "call": lambda s: s(frame(0)),
    "submit": lambda s: s.submit(frame(0)),
    "result": lambda s: s.result(),
    "stream": lambda s: list(s.stream([frame(0)])),
    "warm_up": lambda s: s.warm_up(4, 4),
}


@pytest.mark.parametrize("use", USES)
def test_after_closing_every_use_is_an_error(use: str) -> None:
    segmenter = Segmenter(FakeRuntime(echo))
    segmenter.submit(frame(1))
    segmenter.close()
    segmenter.close()
    with pytest.raises(InferenceError, match="closed"):
        USES[use](segmenter)


def test_closing_waits_for_the_frame_being_labelled_and_drops_the_next(gate: Gate) -> None:
    segmenter = Segmenter(FakeRuntime(gate))
    segmenter.submit(frame(1))
    segmenter.submit(frame(2))
    assert gate.entered.wait(10)
    closer = threading.Thread(target=segmenter.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive(), "it must not free a model that is running"
    gate.open.set()
    closer.join(10)
    assert not closer.is_alive()
    assert gate.calls == 1


def test_closing_waits_for_other_threads_as_well(gate: Gate) -> None:
    segmenter = Segmenter(FakeRuntime(gate))
    with ThreadPoolExecutor(2) as pool:
        labelled = pool.submit(segmenter.infer, frame(5))
        assert gate.entered.wait(10)
        closing = pool.submit(segmenter.close)
        time.sleep(0.05)
        assert not closing.done(), "it must not free a model that is running"
        gate.open.set()
        closing.result(10)
        assert labelled.result(10).labels[0, 0, 0] == 5


def test_closing_while_another_thread_waits_for_its_answer(gate: Gate) -> None:
    segmenter = Segmenter(FakeRuntime(gate))
    segmenter.submit(frame(1))
    segmenter.submit(frame(2))
    assert gate.entered.wait(10)
    with ThreadPoolExecutor(3) as pool:
        first, second = pool.submit(segmenter.result), pool.submit(segmenter.result)
        while not (first.running() and second.running()):
            time.sleep(0.001)
        time.sleep(0.02)
        closing = pool.submit(segmenter.close)
        time.sleep(0.02)
        gate.open.set()
        closing.result(10)
        answers = [future.exception(10) or future.result() for future in (first, second)]
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(errors) == 1
    assert isinstance(errors[0], InferenceError) and "closed" in str(errors[0])


def test_closing_in_the_middle_of_a_stream_ends_it(gate: Gate) -> None:
    gate.open.set()
    segmenter = Segmenter(FakeRuntime(gate))
    source = Source()
    stream = segmenter.stream(source)
    next(stream)
    segmenter.close()
    with pytest.raises(InferenceError, match="closed"):
        for _ in stream:
            pass
    assert source.closed


def test_leaving_a_stream_after_the_segmenter_was_closed(gate: Gate) -> None:
    """A frame that closing dropped from the queue is never marked as done; leaving must not wait for it."""
    segmenter = Segmenter(FakeRuntime(gate))
    gate.open.set()
    stream = segmenter.stream(Source())
    next(stream)
    gate.open.clear()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(segmenter.infer, frame(1))
        closing = pool.submit(segmenter.close)
        time.sleep(0.02)
        gate.open.set()
        closing.result(10)
        other.exception(10)
        pool.submit(stream.close).result(10)


def test_many_threads_get_their_own_answers_one_at_a_time() -> None:
    busy = threading.Lock()

    def rule(frames: np.ndarray) -> np.ndarray:
        assert busy.acquire(blocking=False), "two frames at a time in a runtime that is not thread-safe"
        time.sleep(0.0005)
        busy.release()
        return echo(frames)

    with Segmenter(FakeRuntime(rule)) as segmenter, ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda value: segmenter.infer(frame(value)).labels, range(200))
        assert [int(labels[0, 0, 0]) for labels in answers] == list(range(200))


def test_many_threads_on_a_real_session(tiny: Path, build) -> None:
    batches = [build.frames(1 + i % 2, 3 + i, 20 - i, seed=i) for i in range(16)]
    with load(tiny, device="cpu", threads=1) as segmenter, ThreadPoolExecutor(8) as pool:
        for given_frames, answer in zip(batches * 4, pool.map(segmenter.infer, batches * 4), strict=True):
            np.testing.assert_array_equal(answer.labels, build.labels(given_frames))
