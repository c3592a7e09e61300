"""A frame is in one place at a time, nothing waits for ever, and no camera starves."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest
from deadline import in_time, soon
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fcn_deploy.camera.frames import CameraFrame
from fcn_deploy.camera.pipeline.queues import CameraQueue, FrameQueues, PendingResult
from fcn_deploy.runtimes.base import Segmentation

SMALL, LARGE = (2, 3, 3), (4, 5, 3)


def frame(camera: int, index: int, shape: tuple[int, int, int] = SMALL) -> CameraFrame:
    return CameraFrame(np.zeros(shape, np.uint8), f"{index:06d}", index, time.monotonic(), camera)


def pending(frames: list[CameraFrame]) -> PendingResult:
    return PendingResult(frames, Future(), time.monotonic())


def totals(queue: CameraQueue) -> tuple[int, int, int, int, int]:
    return queue.captured, queue.delivered, queue.dropped, queue.failed, queue.in_flight


def indices(frames: list[CameraFrame] | None) -> list[tuple[int, int]]:
    assert frames is not None
    return [(each.camera, each.index) for each in frames]


class Waiting:
    """A call in a thread of its own, to check whether it waits."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: list[object] = []
        self._thread = threading.Thread(target=lambda: self.result.append(call()), daemon=True)
        self._thread.start()

    def still_waits(self) -> bool:
        self._thread.join(0.05)
        return self._thread.is_alive()

    def ended_with(self) -> object:
        self._thread.join(2)
        assert self.result, "it still waits"
        return self.result[0]


# One thread, any order of calls that does not wait.


class Counting(RuleBasedStateMachine):
    """The queues, compared with a simple model of where every frame is."""

    @initialize(
        live=st.lists(st.booleans(), min_size=1, max_size=4),
        capacity=st.integers(1, 3),
        depth=st.integers(1, 3),
    )
    def begin(self, live: list[bool], capacity: int, depth: int) -> None:
        self.queues = FrameQueues(live, capacity=capacity, depth=depth)
        self.live, self.depth = live, depth
        self.room = [1 if each else capacity for each in live]
        self.waiting: list[list[CameraFrame]] = [[] for _ in live]
        self.served = [0] * len(live)
        self.ended = [False] * len(live)
        self.captured = [0] * len(live)
        self.dropped = [0] * len(live)
        self.failed = [0] * len(live)
        self.delivered: list[list[int]] = [[] for _ in live]
        self.taken: list[CameraFrame] = []
        self.with_model: deque[PendingResult] = deque()
        self.collected: deque[CameraFrame] = deque()
        self.takes, self.stopped = 0, False

    def over(self) -> bool:
        return self.stopped or (all(self.ended) and not any(self.waiting))

    @rule(camera=st.integers(0, 3), shape=st.sampled_from([SMALL, LARGE]))
    def put(self, camera: int, shape: tuple[int, int, int]) -> None:
        camera %= len(self.live)
        full = len(self.waiting[camera]) == self.room[camera]
        if self.ended[camera] or (full and not self.live[camera] and not self.stopped):
            return
        given = frame(camera, self.captured[camera], shape)
        goes_on = self.queues.put(given)
        self.captured[camera] += 1
        assert goes_on is not self.stopped
        if self.stopped:
            self.dropped[camera] += 1
            return
        if full:
            self.waiting[camera].pop(0)
            self.dropped[camera] += 1
        self.waiting[camera].append(given)

    @rule(camera=st.integers(0, 3))
    def end_camera(self, camera: int) -> None:
        camera %= len(self.live)
        self.queues.end_camera(camera)
        self.ended[camera] = True

    @precondition(
        lambda self: (
            not self.taken and (self.over() or (any(self.waiting) and len(self.with_model) < self.depth))
        )
    )
    @rule(most=st.none() | st.integers(1, 4))
    def take(self, most: int | None) -> None:
        taken = self.queues.take(most)
        if self.over():
            assert taken is None
            return
        assert taken
        cameras = [each.camera for each in taken]
        assert len(set(cameras)) == len(cameras), "two frames of one camera"
        assert most is None or len(taken) <= most
        assert len({each.image.shape for each in taken}) == 1
        first = min(self.served[camera] for camera, frames in enumerate(self.waiting) if frames)
        assert self.served[cameras[0]] == first, "another camera waited longer"
        fitting = [
            frames[0] for frames in self.waiting if frames and frames[0].image.shape == taken[0].image.shape
        ]
        assert len(taken) == min(len(fitting), most or len(fitting)), "there was room for more"
        left_out = [self.served[each.camera] for each in fitting if each.camera not in cameras]
        assert not left_out or max(self.served[camera] for camera in cameras) <= min(left_out)
        self.takes += 1
        for each in taken:
            assert each is self.waiting[each.camera].pop(0), "not the oldest that waits"
            self.served[each.camera] = self.takes
        self.taken = taken

    @precondition(lambda self: self.taken)
    @rule()
    def submitted(self) -> None:
        given, self.taken = pending(self.taken), []
        self.queues.submitted(given)
        self.with_model.append(given)

    @precondition(lambda self: self.taken)
    @rule()
    def submit_failed(self) -> None:
        self.queues.submit_failed(self.taken)
        for each in self.taken:
            self.failed[each.camera] += 1
        self.taken = []

    @precondition(lambda self: self.with_model or (self.over() and not self.taken))
    @rule()
    def oldest(self) -> None:
        assert self.queues.oldest() is (self.with_model[0] if self.with_model else None)

    @precondition(lambda self: self.with_model)
    @rule()
    def collect(self) -> None:
        self.queues.collected()
        self.collected.extend(self.with_model.popleft().frames)

    @precondition(lambda self: self.collected)
    @rule(how=st.sampled_from(["delivered", "failed", "dropped"]))
    def done(self, how: str) -> None:
        each = self.collected.popleft()
        getattr(self.queues, how)(each)
        if how == "delivered":
            self.delivered[each.camera].append(each.index)
        else:
            counted = self.failed if how == "failed" else self.dropped
            counted[each.camera] += 1

    @rule()
    def stop(self) -> None:
        self.queues.stop()
        self.stopped = True
        for camera, frames in enumerate(self.waiting):
            self.dropped[camera] += len(frames)
            frames.clear()

    @rule()
    def discard(self) -> None:
        assert self.queues.discard() == list(self.with_model)
        for each in (each for group in self.with_model for each in group.frames):
            self.dropped[each.camera] += 1
        self.with_model.clear()

    @invariant()
    def every_frame_is_in_one_place(self) -> None:
        if not hasattr(self, "queues"):
            return
        away = self.taken + list(self.collected) + [f for group in self.with_model for f in group.frames]
        for camera, queue in enumerate(self.queues.counts()):
            in_flight = len(self.waiting[camera]) + sum(each.camera == camera for each in away)
            delivered = len(self.delivered[camera])
            counted = self.captured[camera], delivered, self.dropped[camera], self.failed[camera], in_flight
            assert totals(queue) == counted
            assert queue.ended is self.ended[camera]
            assert self.delivered[camera] == sorted(self.delivered[camera])
        assert self.queues.stopping.is_set() is self.stopped


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


# What is dropped, and what waits instead.


def test_a_live_camera_keeps_its_newest_frame() -> None:
    queues = FrameQueues([True], capacity=4, depth=1)
    for index in range(10):
        assert queues.put(frame(0, index))
    assert indices(queues.take(None)) == [(0, 9)]
    assert totals(queues.counts()[0]) == (10, 0, 9, 0, 1)


def test_a_live_camera_never_waits_even_while_the_model_is_busy() -> None:
    queues = FrameQueues([True], capacity=1, depth=1)
    queues.put(frame(0, 0))
    taken = queues.take(None)
    assert taken
    queues.submitted(pending(taken))
    assert in_time(lambda: [queues.put(frame(0, index)) for index in range(1, 500)]) == [True] * 499


def test_a_file_waits_for_room_and_no_frame_is_dropped() -> None:
    queues = FrameQueues([False], capacity=2, depth=9)
    queues.put(frame(0, 0))
    queues.put(frame(0, 1))
    third = Waiting(lambda: queues.put(frame(0, 2)))
    assert third.still_waits()
    assert totals(queues.counts()[0]) == (3, 0, 0, 0, 3)  # the one in hand is counted already
    seen = []
    for _ in range(3):
        taken = in_time(lambda: queues.take(None))
        assert taken
        seen += indices(taken)
        queues.submitted(pending(taken))
    assert third.ended_with() is True
    assert seen == [(0, 0), (0, 1), (0, 2)]
    assert queues.counts()[0].dropped == 0


def test_a_full_queue_does_not_block_another_camera() -> None:
    queues = FrameQueues([False, False, True], capacity=1, depth=1)
    queues.put(frame(0, 0))
    blocked = Waiting(lambda: queues.put(frame(0, 1)))
    assert blocked.still_waits()
    assert in_time(lambda: queues.put(frame(1, 0)))
    assert in_time(lambda: queues.put(frame(2, 0)))
    assert blocked.still_waits()
    queues.stop()
    assert blocked.ended_with() is False


def test_waiting_frames_are_still_taken_after_the_end_of_a_file() -> None:
    queues = FrameQueues([False, True], capacity=3, depth=9)
    for index in range(3):
        queues.put(frame(0, index))
    queues.end_camera(0)
    queues.end_camera(1)
    for index in range(3):
        taken = queues.take(1)
        assert indices(taken) == [(0, index)]
        queues.submitted(pending(taken or []))
    assert queues.take(1) is None


def test_waiting_frames_are_still_taken_after_stop_capture() -> None:
    queues = FrameQueues([False, True], capacity=1, depth=9)
    queues.put(frame(0, 0))
    blocked = Waiting(lambda: queues.put(frame(0, 1)))
    assert blocked.still_waits()
    queues.stop_capture()
    assert blocked.ended_with() is False
    assert not queues.put(frame(1, 0))
    assert indices(queues.take(1)) == [(0, 0)]
    queues.submit_failed([])
    assert queues.take(1) is None
    assert [queue.dropped for queue in queues.counts()] == [1, 1]


# Who comes next.


@pytest.mark.parametrize("most", [1, 2, 3, 4, None])
def test_every_camera_is_served_in_turn(most: int | None) -> None:
    cameras, turns = 5, 40
    queues = FrameQueues([True] * cameras, capacity=1, depth=1)
    served = [0] * cameras
    for turn in range(turns):
        for camera in range(cameras):
            queues.put(frame(camera, turn))
        taken = queues.take(most)
        assert taken and len(taken) == min(cameras, most or cameras)
        for each in taken:
            served[each.camera] += 1
        queues.submit_failed(taken)
        assert max(served) - min(served) <= 1


def test_a_fast_camera_does_not_starve_a_slow_one() -> None:
    queues = FrameQueues([False, True], capacity=50, depth=1)
    for index in range(50):
        queues.put(frame(0, index))
    taken = queues.take(1)
    queues.submit_failed(taken or [])
    queues.put(frame(1, 0))
    assert indices(queues.take(1)) == [(1, 0)]


def test_a_camera_with_another_size_does_not_starve() -> None:
    queues = FrameQueues([True] * 3, capacity=1, depth=1)
    seen = []
    for turn in range(6):
        queues.put(frame(0, turn))
        queues.put(frame(1, turn))
        queues.put(frame(2, turn, LARGE))
        taken = queues.take(None)
        assert taken
        seen.append(sorted(each.camera for each in taken))
        queues.submit_failed(taken)
    assert seen == [[0, 1], [2]] * 3 or seen == [[2], [0, 1]] * 3


def test_only_frames_of_one_height_and_width_share_an_inference() -> None:
    queues = FrameQueues([True] * 3, capacity=1, depth=1)
    for camera, shape in enumerate([(4, 6, 3), (6, 4, 3), (4, 6, 3)]):
        queues.put(frame(camera, 0, shape))
    taken = queues.take(None)
    assert sorted(indices(taken)) == [(0, 0), (2, 0)]


# Every wait ends.


def test_take_waits_for_a_frame() -> None:
    queues = FrameQueues([True], capacity=1, depth=1)
    taking = Waiting(lambda: queues.take(None))
    assert taking.still_waits()
    given = frame(0, 0)
    queues.put(given)
    assert taking.ended_with() == [given]


def test_take_waits_for_room_with_the_model() -> None:
    queues = FrameQueues([False], capacity=4, depth=2)
    for index in range(3):
        queues.put(frame(0, index))
    for _ in range(2):
        queues.submitted(pending(queues.take(None) or []))
    third = Waiting(lambda: queues.take(None))
    assert third.still_waits()
    queues.collected()
    assert indices(third.ended_with()) == [(0, 2)]  # type: ignore[arg-type]


def test_a_frame_that_waits_for_the_model_is_replaced_by_a_newer_one() -> None:
    queues = FrameQueues([True], capacity=1, depth=1)
    queues.put(frame(0, 0))
    queues.submitted(pending(queues.take(None) or []))
    queues.put(frame(0, 1))
    taking = Waiting(lambda: queues.take(None))
    assert taking.still_waits()
    queues.put(frame(0, 2))
    queues.collected()
    assert indices(taking.ended_with()) == [(0, 2)]  # type: ignore[arg-type]


def test_take_ends_with_the_last_camera() -> None:
    queues = FrameQueues([True, False], capacity=1, depth=1)
    taking = Waiting(lambda: queues.take(None))
    queues.end_camera(0)
    assert taking.still_waits()
    queues.end_camera(1)
    assert taking.ended_with() is None


def test_oldest_waits_for_what_was_taken_and_not_yet_submitted() -> None:
    queues = FrameQueues([False], capacity=1, depth=1)
    queues.put(frame(0, 0))
    taken = queues.take(None) or []
    queues.end_camera(0)
    queues.stop()
    waiting = Waiting(queues.oldest)
    assert waiting.still_waits(), "the frame in hand would be lost"
    given = pending(taken)
    queues.submitted(given)
    assert waiting.ended_with() is given


def test_oldest_ends_when_the_submission_fails() -> None:
    queues = FrameQueues([False], capacity=1, depth=1)
    queues.put(frame(0, 0))
    taken = queues.take(None) or []
    queues.end_camera(0)
    waiting = Waiting(queues.oldest)
    assert waiting.still_waits()
    queues.submit_failed(taken)
    assert waiting.ended_with() is None
    assert totals(queues.counts()[0]) == (1, 0, 0, 1, 0)


def test_results_are_collected_in_the_order_of_their_frames() -> None:
    queues = FrameQueues([False], capacity=3, depth=3)
    given = []
    for index in range(3):
        queues.put(frame(0, index))
        given.append(pending(queues.take(None) or []))
        queues.submitted(given[-1])
    given[2].future.set_exception(ValueError())  # ready first, and still the last
    for each in given:
        assert queues.oldest() is each
        queues.collected()


def _put_into_full(queues: FrameQueues) -> object:
    return all(queues.put(frame(0, index)) for index in range(3))


def _take_without_room(queues: FrameQueues) -> object:
    queues.put(frame(0, 0))
    queues.submitted(pending(queues.take(None) or []))
    queues.put(frame(0, 1))
    return queues.take(None)


@pytest.mark.parametrize(
    ("wait", "ends_with"),
    [
        (_put_into_full, False),
        (lambda queues: queues.take(None), None),
        (_take_without_room, None),
        (lambda queues: queues.oldest(), None),
    ],
    ids=["put", "take without a frame", "take without room", "oldest"],
)
def test_stop_ends_every_wait(wait: Callable[[FrameQueues], object], ends_with: object) -> None:
    queues = FrameQueues([False], capacity=2, depth=1)
    waiting = Waiting(lambda: wait(queues))
    assert waiting.still_waits()
    queues.stop()
    assert waiting.ended_with() is ends_with
    queues.discard()
    now = queues.counts()[0]
    assert now.in_flight == 0 and now.captured == now.dropped


def test_stop_ends_all_waits_at_once() -> None:
    queues = FrameQueues([False, False, False], capacity=1, depth=1)
    for camera in range(3):
        queues.put(frame(camera, 0))
    taken = queues.take(None)
    queues.submitted(pending(taken or []))
    for camera in range(3):
        queues.put(frame(camera, 1))
    waiting = [Waiting(lambda camera=camera: queues.put(frame(camera, 2))) for camera in range(3)]  # type: ignore[misc]
    waiting.append(Waiting(lambda: queues.take(None)))
    assert all(each.still_waits() for each in waiting)
    queues.stop()
    assert [each.ended_with() for each in waiting] == [False, False, False, None]


def test_frames_with_the_model_survive_stop_and_not_discard() -> None:
    queues = FrameQueues([False], capacity=2, depth=1)
    queues.put(frame(0, 0))
    given = pending(queues.take(None) or [])
    queues.submitted(given)
    queues.put(frame(0, 1))
    queues.stop()
    assert totals(queues.counts()[0]) == (2, 0, 1, 0, 1)
    assert queues.oldest() is given
    assert queues.discard() == [given] and queues.discard() == []
    assert totals(queues.counts()[0]) == (2, 0, 2, 0, 0)
    assert in_time(queues.oldest) is None


def test_stopping_again_changes_nothing() -> None:
    queues = FrameQueues([True], capacity=1, depth=1)
    queues.put(frame(0, 0))
    queues.stop()
    before = totals(queues.counts()[0])
    queues.stop()
    assert totals(queues.counts()[0]) == before == (1, 0, 1, 0, 0)


# Looked at from outside.


def test_counts_are_a_snapshot_without_frames() -> None:
    queues = FrameQueues([True, False], capacity=2, depth=1)
    queues.put(frame(1, 0))
    before = queues.counts()
    queues.put(frame(1, 1))
    assert [totals(queue) for queue in before] == [(0, 0, 0, 0, 0), (1, 0, 0, 0, 1)]
    assert not any(queue.frames for queue in before), "statistics must not keep frames alive"
    assert [queue.live for queue in before] == [True, False]


def test_the_time_of_a_result_is_noted() -> None:
    given = pending([frame(0, 0)])
    assert given.ready_at is None
    before = time.monotonic()
    answer: Future[Segmentation] = given.future
    answer.set_exception(ValueError())
    assert given.ready_at is not None and before <= given.ready_at <= time.monotonic()


def test_counts_add_up_while_threads_work() -> None:
    live, capacity, depth, most = [True, False, True], 3, 2, 2
    queues = FrameQueues(live, capacity=capacity, depth=depth)
    rest = [0, 200, 0]
    stopped = threading.Event()

    def capture(camera: int) -> None:
        index = 0
        while not stopped.is_set() and (live[camera] or index < rest[camera]):
            if not queues.put(frame(camera, index)):
                return
            index += 1
            time.sleep(0.0002 if live[camera] else 0)
        queues.end_camera(camera)

    def infer() -> None:
        while (frames := queues.take(most)) is not None:
            if frames[0].index % 7 == 3:
                queues.submit_failed(frames)
            else:
                queues.submitted(pending(frames))

    delivered: list[list[int]] = [[] for _ in live]

    def deliver() -> None:
        while (group := queues.oldest()) is not None:
            queues.collected()
            for each in group.frames:
                delivered[each.camera].append(each.index)
                if each.index % 5 == 2:
                    queues.failed(each)
                else:
                    queues.delivered(each)

    acts = [lambda camera=camera: capture(camera) for camera in range(3)]
    threads = [threading.Thread(target=act, daemon=True) for act in [*acts, infer, deliver]]
    for thread in threads:
        thread.start()
    most_away = [1, capacity + 1, 1]  # in its queue; a file holds one more in hand
    looked, before = 0, queues.counts()

    def all_there() -> bool:
        nonlocal looked, before
        now = queues.counts()
        for camera, (queue, earlier) in enumerate(zip(now, before, strict=True)):
            # Besides: one in each group with the model, in the hand of the taker, and in delivery.
            assert 0 <= queue.in_flight <= most_away[camera] + depth + 2
            assert (queue.captured, queue.delivered, queue.dropped, queue.failed) >= (
                earlier.captured,
                earlier.delivered,
                earlier.dropped,
                earlier.failed,
            )
        looked, before = looked + 1, now
        return now[1].ended and now[1].in_flight == 0 and len(delivered[0]) > 50

    assert soon(all_there, 5)
    stopped.set()
    for thread in threads:
        thread.join(2)
        assert not thread.is_alive()
    now = queues.counts()
    assert looked > 2
    assert [queue.in_flight for queue in now] == [0, 0, 0]
    assert now[1].captured == 200 and now[1].dropped == 0, "a file lost frames"
    assert all(each == sorted(set(each)) for each in delivered), "the order within a camera"
