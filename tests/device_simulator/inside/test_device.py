"""The device layer on the simulated driver: what it promises, for the CUDA binding that is named outside."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fcn_deploy.errors import BackendUnavailable, InferenceError
from fcn_deploy.runtimes.cuda.device import Device, open_device
from fcn_deploy.runtimes.cuda.memory import DeviceMemory, PinnedMemory
from fcn_deploy.runtimes.cuda.streams import Event, Stream

SLOW = 20_000
"""Microseconds before each piece of work: long enough that no answer is there by luck."""


@pytest.fixture
def device(binding: str) -> Iterator[Device]:
    opened = open_device(0, binding)
    yield opened
    opened.close()


def filled(device: Device, nbytes: int, seed: int) -> PinnedMemory:
    """Pinned memory with random bytes in it."""
    made = device.pinned(nbytes)
    made.array[:] = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    return made


def refusal(do: Callable[[], object]) -> tuple[type[InferenceError], str]:
    """The error that ``do`` raises: its type and its words, and nothing that keeps its frames alive."""
    try:
        do()
    except InferenceError as exc:
        return type(exc), str(exc)
    pytest.fail("it was not refused")


def current_context() -> int | None:
    """What the driver has current in this thread."""
    context = ctypes.c_void_p()
    ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context))
    return context.value


# --- opening -----------------------------------------------------------------------------------------


def test_a_device_says_what_it_is(device: Device, binding: str) -> None:
    assert (device.index, device.name, device.compute_capability) == (0, "Simulated GPU", "8.6")
    assert device.binding == binding
    assert device.can_capture == (binding == "cuda-python")  # pycuda has no calls for graphs


def test_without_a_name_the_first_binding_that_is_installed_is_taken() -> None:
    device = open_device()
    device.close()
    assert device.binding == ("cuda-python" if importlib.util.find_spec("cuda") else "pycuda")


def test_a_gpu_that_is_not_there_is_named(binding: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"^cuda:3 cannot be used: .*cuDeviceGet failed") as caught:
        open_device(3, binding)
    assert isinstance(caught.value.__cause__, InferenceError)


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_what_fails_while_opening_is_said_and_nothing_stays(binding: str, sim: Any, call: str) -> None:
    sim.fault(call, 1, 2)
    with pytest.raises(BackendUnavailable, match=f"^cuda:0 cannot be used: {call} failed: .*out of memory"):
        open_device(0, binding)
    assert sim.leaks() == {}
    open_device(0, binding).close()


def test_the_context_is_current_only_while_a_call_lasts(device: Device) -> None:
    stream, target = device.stream(), device.memory(8)
    stream.copy_in(target, filled(device, 8, 0), 8)
    stream.synchronize()
    assert current_context() is None
    with device.current():
        inside = current_context()
        assert inside is not None
        with device.current():
            device.free_bytes()
        assert current_context() == inside
    assert current_context() is None


def test_the_context_is_put_back_after_an_error(device: Device) -> None:
    with pytest.raises(ZeroDivisionError), device.current():
        raise ZeroDivisionError
    with pytest.raises(InferenceError):
        device.memory(1 << 40)
    assert current_context() is None


def test_two_devices_share_the_primary_context(binding: str, sim: Any) -> None:
    one, other = open_device(0, binding), open_device(0, binding)
    assert sim.count("retained") == 2
    with one.current():
        context = current_context()
    with other.current():
        assert current_context() == context
    target, stream = one.memory(64), one.stream()
    one.close()  # does not pull the context from under the other
    stream, target = other.stream(), other.memory(64)
    source, back = filled(other, 64, 1), other.pinned(64)
    stream.copy_in(target, source, 64)
    stream.copy_out(back, target, 64)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, source.array)
    other.close()
    assert sim.leaks() == {}


# --- copies and order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [1, 255, 4096, 4097, 1_000_003])
def test_bytes_come_back_as_they_went(device: Device, nbytes: int) -> None:
    source, back = filled(device, nbytes, nbytes), device.pinned(nbytes)
    target, stream = device.memory(nbytes), device.stream()
    stream.copy_in(target, source, nbytes)
    stream.copy_out(back, target, nbytes)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, source.array)


def test_only_the_first_bytes_are_copied(device: Device) -> None:
    source, back = filled(device, 64, 1), device.pinned(64)
    target, stream = device.memory(64), device.stream()
    back.array[:] = 7
    stream.copy_in(target, source, 64)
    stream.copy_out(back, target, 10)
    stream.synchronize()
    np.testing.assert_array_equal(back.array[:10], source.array[:10])
    assert set(back.array[10:].tolist()) == {7}


def test_a_copy_longer_than_its_memory_is_refused_before_it_is_queued(device: Device, sim: Any) -> None:
    small, large, stream = device.memory(8), device.pinned(16), device.stream()
    copies = sim.count("copies")
    for copy in (lambda: stream.copy_in(small, large, 16), lambda: stream.copy_out(large, small, 16)):
        with pytest.raises(InferenceError, match="a copy of 16 bytes does not fit 8"):
            copy()
    stream.synchronize()
    assert sim.count("copies") == copies


def test_copies_go_on_behind_the_callers_back(device: Device, sim: Any) -> None:
    """Read before the synchronisation the answer is wrong: the queues of the simulator are real."""
    sim.delay(SLOW)
    source, back = filled(device, 64, 2), device.pinned(64)
    target, stream = device.memory(64), device.stream()
    back.array[:] = 0
    stream.copy_in(target, source, 64)
    stream.copy_out(back, target, 64)
    assert not back.array.any()
    stream.synchronize()
    np.testing.assert_array_equal(back.array, source.array)


def test_pinned_memory_changed_too_early_reaches_the_device_changed(device: Device, sim: Any) -> None:
    sim.delay(SLOW)
    source, back = filled(device, 64, 3), device.pinned(64)
    target, stream = device.memory(64), device.stream()
    stream.copy_in(target, source, 64)
    source.array[:] = 9
    stream.copy_out(back, target, 64)
    stream.synchronize()
    assert set(back.array.tolist()) == {9}


def two_streams(device: Device, order: Callable[[Stream, Stream], None]) -> tuple[PinnedMemory, PinnedMemory]:
    """One stream writes, the other reads; ``order`` comes between. What was written, what was read."""
    writer, reader, target = device.stream(), device.stream(), device.memory(64)
    before, source, back = filled(device, 64, 4), filled(device, 64, 5), device.pinned(64)
    writer.copy_in(target, before, 64)
    writer.synchronize()
    writer.copy_in(target, before, 64)  # keeps the writer busy for longer than the reader
    writer.copy_in(target, source, 64)
    order(writer, reader)
    reader.copy_out(back, target, 64)
    reader.synchronize()
    writer.synchronize()
    return source, back


def by_event(device: Device) -> Callable[[Stream, Stream], None]:
    def order(writer: Stream, reader: Stream) -> None:
        event = device.event()
        event.record(writer)
        reader.wait(event)

    return order


def test_streams_do_not_wait_for_each_other_unless_told(device: Device, sim: Any) -> None:
    sim.delay(SLOW)
    source, back = two_streams(device, lambda writer, reader: None)
    assert not np.array_equal(back.array, source.array)


def test_a_stream_waits_for_an_event_in_another(device: Device, sim: Any) -> None:
    sim.delay(SLOW)
    source, back = two_streams(device, by_event(device))
    np.testing.assert_array_equal(back.array, source.array)


def test_a_stream_waits_for_a_foreign_stream(device: Device, sim: Any) -> None:
    sim.delay(SLOW)
    events = sim.count("events")
    source, back = two_streams(device, lambda writer, reader: reader.wait_for(writer.handle))
    np.testing.assert_array_equal(back.array, source.array)
    assert sim.count("events") == events


# --- events --------------------------------------------------------------------------------------------


def test_an_event_is_waited_for_and_gives_the_time(device: Device, sim: Any) -> None:
    sim.delay(SLOW)
    stream, start, end = device.stream(), device.event(), device.event()
    source, back, target = filled(device, 64, 6), device.pinned(64), device.memory(64)
    start.record(stream)
    stream.copy_in(target, source, 64)
    stream.copy_out(back, target, 64)
    end.record(stream)
    end.synchronize()
    np.testing.assert_array_equal(back.array, source.array)
    assert end.elapsed_ms(start) >= 3 * SLOW / 1000 * 0.9  # two copies and the second mark


def test_an_event_that_has_not_come_has_no_time(device: Device, sim: Any) -> None:
    sim.delay(SLOW)
    stream, start, end = device.stream(), device.event(), device.event()
    start.record(stream)
    end.record(stream)
    with pytest.raises(InferenceError, match="cuEventElapsedTime failed"):
        end.elapsed_ms(start)
    end.synchronize()
    assert end.elapsed_ms(start) > 0


# --- graphs --------------------------------------------------------------------------------------------


@pytest.fixture
def capturing(device: Device) -> Device:
    if not device.can_capture:
        with pytest.raises(InferenceError, match="pycuda cannot capture CUDA graphs"):
            device.capture(device.stream(), lambda: None)
        pytest.skip("pycuda has no calls for CUDA graphs")
    return device


def test_a_graph_is_recorded_without_running_and_runs_at_every_launch(capturing: Device, sim: Any) -> None:
    source, back, target = filled(capturing, 64, 7), capturing.pinned(64), capturing.memory(64)
    stream, ran = capturing.stream(), []
    back.array[:] = 0

    def queue() -> None:
        stream.copy_in(target, source, 64)
        assert sim.enqueue(stream.handle, lambda: ran.append(bytes(sim.bytes_at(target.address, 2)))) == 0
        stream.copy_out(back, target, 64)

    with capturing.current():
        graph = capturing.capture(stream, queue)
    stream.synchronize()
    assert (ran, back.array.any()) == ([], False)
    for seed in range(3):
        source.array[:] = np.random.default_rng(seed).integers(0, 256, 64, dtype=np.uint8)
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(back.array, source.array)
        assert ran[-1] == bytes(source.array[:2])
    assert len(ran) == 3
    graph.free()
    graph.free()
    assert sim.count("graphs") == 0


def test_a_capture_that_is_broken_off_leaves_the_stream_as_it_was(capturing: Device, sim: Any) -> None:
    source, back, target = filled(capturing, 8, 8), capturing.pinned(8), capturing.memory(8)
    stream = capturing.stream()

    def queue() -> None:
        stream.copy_in(target, source, 8)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        capturing.capture(stream, queue)
    stream.copy_in(target, source, 8)
    stream.copy_out(back, target, 8)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, source.array)
    assert sim.count("graphs") == 0


def test_waiting_inside_of_a_capture_is_the_drivers_error(capturing: Device, sim: Any) -> None:
    stream = capturing.stream()
    with pytest.raises(InferenceError, match="cuStreamSynchronize failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPP"):
        capturing.capture(stream, stream.synchronize)
    stream.synchronize()
    assert sim.count("graphs") == 0


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"]
)
def test_a_capture_that_fails_leaks_no_graph(capturing: Device, sim: Any, call: str) -> None:
    stream = capturing.stream()
    sim.fault(call, 1, 2)
    with pytest.raises(InferenceError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        capturing.capture(stream, lambda: None)
    assert sim.count("graphs") == 0


# --- errors --------------------------------------------------------------------------------------------


def test_too_little_memory_says_how_much_was_wanted_and_is_free(device: Device, sim: Any) -> None:
    sim.memory(50_000_000)
    device.memory(20_000_000)
    with pytest.raises(
        InferenceError,
        match=r"could not allocate 40\.0 MB of GPU memory \(30\.0 MB are free\): .*out of memory",
    ):
        device.memory(40_000_000)
    assert device.memory(30_000_000).nbytes == 30_000_000  # and the device can still be used


def test_too_little_pinned_memory_is_not_called_gpu_memory(device: Device, sim: Any) -> None:
    sim.fault("cuMemHostAlloc", 1, 2)
    with pytest.raises(InferenceError, match=r"could not allocate 5\.0 MB of pinned host memory: "):
        device.pinned(5_000_000)
    assert device.pinned(5_000_000).array.shape == (5_000_000,)


USES: dict[str, tuple[str, Callable[[Device, Stream, Event, DeviceMemory, PinnedMemory], object]]] = {
    "stream": ("cuStreamCreate", lambda d, s, e, m, p: d.stream()),
    "event": ("cuEventCreate", lambda d, s, e, m, p: d.event()),
    "free bytes": ("cuMemGetInfo_v2", lambda d, s, e, m, p: d.free_bytes()),
    "copy in": ("cuMemcpyHtoDAsync_v2", lambda d, s, e, m, p: s.copy_in(m, p, 8)),
    "copy out": ("cuMemcpyDtoHAsync_v2", lambda d, s, e, m, p: s.copy_out(p, m, 8)),
    "wait": ("cuStreamWaitEvent", lambda d, s, e, m, p: s.wait(e)),
    "wait for": ("cuEventRecord", lambda d, s, e, m, p: s.wait_for(0)),
    "record": ("cuEventRecord", lambda d, s, e, m, p: e.record(s)),
    "synchronize": ("cuStreamSynchronize", lambda d, s, e, m, p: s.synchronize()),
    "synchronize event": ("cuEventSynchronize", lambda d, s, e, m, p: e.synchronize()),
}
"""Name -> the driver's function, and a use of ours that calls it."""


def test_things_that_are_freed_are_refused_wherever_they_are_given(device: Device) -> None:
    """A freed stream must not become the default stream, nor a freed event a null pointer."""
    stream, event, gone, past = device.stream(), device.event(), device.stream(), device.event()
    event.record(stream)
    gone.free()
    past.free()
    uses: list[tuple[str, Callable[[], object]]] = [
        ("stream", lambda: event.record(gone)),
        ("event", lambda: stream.wait(past)),
        ("event", lambda: event.elapsed_ms(past)),
    ]
    if device.can_capture:
        graph = device.capture(stream, lambda: None)
        uses += [
            ("stream", lambda: device.capture(gone, lambda: None)),
            ("stream", lambda: graph.launch(gone)),
        ]
    for what, use in uses:
        with pytest.raises(InferenceError, match=f"this CUDA {what} is freed; load the artefact again"):
            use()


def test_an_exception_on_its_way_keeps_nothing_allocated(binding: str, sim: Any) -> None:
    clean = sim.leaks()
    device = open_device(0, binding)
    stream, event = device.stream(), device.event()
    for call, use in (
        ("cuStreamSynchronize", stream.synchronize),
        ("cuEventRecord", lambda: event.record(stream)),
    ):
        sim.fault(call, 1, 2)
        with pytest.raises(InferenceError) as caught:
            use()
        kept = caught.value  # as a ``with`` block does while it closes the device
    device.close()
    assert "out of memory" in str(kept)
    assert sim.leaks() == clean


@pytest.mark.parametrize("use", USES)
def test_each_refusal_of_the_driver_is_one_error_that_names_the_call(
    device: Device, sim: Any, use: str
) -> None:
    call, do = USES[use]
    stream, event, memory, pinned = device.stream(), device.event(), device.memory(8), device.pinned(8)
    event.record(stream)
    sim.fault(call, 1, 2)
    kind, words = refusal(lambda: do(device, stream, event, memory, pinned))
    assert kind is InferenceError  # and not DeviceLost
    assert words.startswith(f"{call.removesuffix('_v2')} failed: ") and "out of memory" in words
    do(device, stream, event, memory, pinned)  # it was refused once and works again
    stream.synchronize()


# --- freeing -------------------------------------------------------------------------------------------


def everything(device: Device) -> list[Any]:
    return [device.memory(64), device.pinned(64), device.stream(), device.event()]


def test_each_thing_is_freed_when_asked_and_once(device: Device, sim: Any) -> None:
    clean = sim.leaks()
    things = everything(device)
    assert sim.leaks() != clean
    for thing in things:
        thing.free()
        thing.free()
    assert sim.leaks() == clean
    assert sim.violation == ""


def test_closing_frees_what_is_still_allocated(binding: str, sim: Any) -> None:
    device = open_device(0, binding)
    held = everything(device) + everything(device)
    assert sim.leaks() == {
        **{kind: 2 for kind in ("device", "pinned", "streams", "events")},
        "retained": 1,
        "live_bytes": 128,
    }
    device.close()
    device.close()
    for thing in held:
        thing.free()
    assert sim.leaks() == {}


def test_closing_waits_for_what_is_in_flight(binding: str, sim: Any) -> None:
    sim.delay(SLOW)
    device = open_device(0, binding)
    stream, target, source = device.stream(), device.memory(64), filled(device, 64, 9)
    copies = sim.count("copies")
    for _ in range(3):
        stream.copy_in(target, source, 64)
    device.close()
    assert (sim.count("copies"), sim.violation) == (copies + 3, "")


def test_use_after_close_is_refused_in_words(binding: str) -> None:
    device = open_device(0, binding)
    stream, event, memory, pinned = device.stream(), device.event(), device.memory(8), device.pinned(8)
    device.close()
    for use in (device.stream, device.event, device.free_bytes, lambda: device.memory(8)):
        with pytest.raises(InferenceError, match="the CUDA device is closed; load the artefact again"):
            use()
    for what, use in (
        ("stream", stream.synchronize),
        ("stream", lambda: stream.copy_in(memory, pinned, 8)),
        ("stream", lambda: stream.wait(event)),
        ("event", event.synchronize),
        ("event", lambda: event.record(stream)),
    ):
        with pytest.raises(InferenceError, match=f"this CUDA {what} is freed; load the artefact again"):
            use()


def test_a_stream_that_is_freed_is_refused_and_the_device_is_not(device: Device) -> None:
    stream = device.stream()
    stream.free()
    with pytest.raises(InferenceError, match="this CUDA stream is freed"):
        stream.synchronize()
    device.stream().synchronize()


def test_ten_rounds_leave_nothing(binding: str, sim: Any) -> None:
    for seed in range(10):
        device = open_device(0, binding)
        stream, target = device.stream(), device.memory(4096)
        source, back = filled(device, 4096, seed), device.pinned(4096)
        stream.copy_in(target, source, 4096)
        stream.copy_out(back, target, 4096)
        stream.synchronize()
        np.testing.assert_array_equal(back.array, source.array)
        device.close()
        gc.collect()
        assert sim.leaks() == {}


# --- threads -------------------------------------------------------------------------------------------


def test_threads_use_one_device_at_once(device: Device) -> None:
    def round_trip(seed: int) -> bool:
        stream, target = device.stream(), device.memory(4096)
        source, back = filled(device, 4096, seed), device.pinned(4096)
        stream.copy_in(target, source, 4096)
        stream.copy_out(back, target, 4096)
        stream.synchronize()
        right = bool(np.array_equal(back.array, source.array))
        for thing in (stream, target, source, back):
            thing.free()
        return right and current_context() is None

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(round_trip, range(60)))


def test_what_one_thread_made_another_uses_and_frees(device: Device, sim: Any) -> None:
    clean = sim.leaks()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(device.stream).result()
        target = pool.submit(device.memory, 64).result()
    source, back = filled(device, 64, 10), device.pinned(64)
    stream.copy_in(target, source, 64)
    stream.copy_out(back, target, 64)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, source.array)
    freeing = threading.Thread(target=lambda: [thing.free() for thing in (stream, target, source, back)])
    freeing.start()
    freeing.join()
    assert sim.leaks() == clean


def test_a_device_opened_in_a_thread_that_ended_is_used_and_closed_here(binding: str, sim: Any) -> None:
    clean = sim.leaks()
    with ThreadPoolExecutor(1) as pool:
        device = pool.submit(open_device, 0, binding).result()
    stream, target, source = device.stream(), device.memory(64), filled(device, 64, 11)
    stream.copy_in(target, source, 64)
    stream.synchronize()
    device.close()
    assert sim.leaks() == clean
    assert current_context() is None


def test_a_device_is_closed_in_another_thread(binding: str, sim: Any) -> None:
    clean = sim.leaks()
    device = open_device(0, binding)
    device.memory(64)
    closing = threading.Thread(target=device.close)
    closing.start()
    closing.join()
    assert sim.leaks() == clean


def test_closing_leaves_another_context_current(binding: str, sim: Any) -> None:
    clean = sim.leaks()
    outer, inner = open_device(0, binding), open_device(0, binding)
    with outer.current():
        before = current_context()
        inner.close()
        assert current_context() == before is not None
    outer.close()
    assert current_context() is None
    assert sim.leaks() == clean
