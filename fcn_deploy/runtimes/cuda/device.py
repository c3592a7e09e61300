"""Device memory, streams, events and CUDA graphs: one small layer over the driver.

It uses the GPU's primary context, so it works beside PyTorch and TensorRT in one process, and makes it
current only while a call lasts, so any thread may use it. What was allocated is known to the device
and freed with it; freeing twice is harmless, and freeing never raises: there is nothing that a caller
could do about it.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import BackendUnavailable, InferenceError, UsageError
from fcn_deploy.runtimes.cuda.driver import BINDINGS, DeviceLost, Driver, binding_problem


def open_device(index: int = 0, binding: str | None = None) -> Device:
    """A GPU through its primary context.

    Args:
        index: the GPU's number, from 0.
        binding: ``cuda-python`` or ``pycuda``; None takes the first that is installed.

    Raises:
        UsageError: there is no such binding.
        BackendUnavailable: the binding cannot be imported, or there is no such GPU.
    """
    if binding is not None and binding not in BINDINGS:
        raise UsageError(f"unknown CUDA binding {binding!r}; choose one of {', '.join(BINDINGS)}")
    if problem := binding_problem(binding):
        raise BackendUnavailable(problem)
    chosen = binding or next(name for name in BINDINGS if binding_problem(name) is None)
    module, _, name = BINDINGS[chosen][0].partition(":")
    driver: Driver = getattr(importlib.import_module(module), name)()
    try:
        driver.open(index)
    except InferenceError as exc:
        raise BackendUnavailable(f"cuda:{index} cannot be used: {exc}") from exc
    return Device(driver, index, chosen)


Made = TypeVar("Made", bound="_Resource")


@final
class Device:
    """One GPU. Every method may be called from any thread.

    Args:
        driver: the binding, opened.
        index: the GPU's number.
        binding: the binding's name.
    """

    def __init__(self, driver: Driver, index: int, binding: str) -> None:
        self.index = index
        self.binding = binding
        self.name = driver.name
        self.compute_capability = driver.compute_capability
        self.can_capture = driver.can_capture
        self._driver = driver
        self._open: set[_Resource] = set()
        self._lock = threading.RLock()
        self._closed = False

    @contextmanager
    def current(self) -> Iterator[Driver]:
        """The context current in this thread, as TensorRT's own calls want it.

        Raises:
            InferenceError: the device is closed.
        """
        if self._closed:
            raise InferenceError("the CUDA device is closed; load the artefact again")
        self._driver.push()
        try:
            yield self._driver
        finally:
            self._driver.pop()

    def free_bytes(self) -> int:
        """Free device memory. Raises InferenceError."""
        with self.current() as driver:
            return driver.memory_info()[0]

    def memory(self, nbytes: int) -> DeviceMemory:
        """Device memory, not cleared.

        Raises:
            InferenceError: there is not so much; says how much was asked for and is free.
        """
        with self.current() as driver:
            try:
                made = driver.allocate(nbytes)
            except DeviceLost:
                raise
            except InferenceError as exc:
                raise InferenceError(f"{_megabytes(nbytes)} of GPU memory{_of_free(driver)}: {exc}") from exc
            return self._keep(DeviceMemory(self, made, driver.address(made), nbytes))

    def pinned(self, nbytes: int) -> PinnedMemory:
        """Host memory that the device can read and write by itself, which copies behind the back need.

        Raises:
            InferenceError: there is not so much.
        """
        with self.current() as driver:
            try:
                made, array = driver.allocate_pinned(nbytes)
            except DeviceLost:
                raise
            except InferenceError as exc:
                raise InferenceError(f"{_megabytes(nbytes)} of pinned host memory: {exc}") from exc
            return self._keep(PinnedMemory(self, made, array))

    def stream(self) -> Stream:
        """A queue of work that does not wait for others. Raises InferenceError."""
        with self.current() as driver:
            made = driver.create_stream()
            return self._keep(Stream(self, made, driver.stream_handle(made)))

    def event(self) -> Event:
        """A mark in a stream, with its time. Raises InferenceError."""
        with self.current() as driver:
            return self._keep(Event(self, driver.create_event()))

    def capture(self, stream: Stream, queue: Callable[[], None]) -> Graph:
        """What ``queue`` puts into ``stream``, recorded and not run.

        Only this thread's calls are watched, so other threads may allocate meanwhile.

        Raises:
            InferenceError: the binding or the driver cannot capture it.
        """
        if not self.can_capture:
            raise InferenceError(f"{self.binding} cannot capture CUDA graphs")
        with stream.opened() as driver:
            driver.begin_capture(stream.made)
            try:
                queue()
            except BaseException:
                with suppress(InferenceError):  # ends the capture; what it gives is of no use
                    driver.destroy_graph(driver.end_capture(stream.made))
                raise
            return self._keep(Graph(self, driver.end_capture(stream.made)))

    def close(self) -> None:
        """Free all that is still allocated and let go of the context; twice is harmless."""
        with self._lock:
            if self._closed:
                return
            # Streams last: what waits in them may still touch memory, so they are waited for first.
            for stream in [r for r in self._open if isinstance(r, Stream)]:
                with suppress(InferenceError):
                    stream.synchronize()
            for resource in sorted(self._open, key=lambda r: isinstance(r, Stream)):
                resource.free()
            self._closed = True
            with suppress(InferenceError):
                self._driver.release()

    def _keep(self, resource: Made) -> Made:
        with self._lock:
            self._open.add(resource)
        return resource

    def _drop(self, resource: _Resource) -> None:
        """Free a resource once."""
        with self._lock:
            if resource not in self._open:
                return
            self._open.discard(resource)
            with suppress(InferenceError), self.current() as driver:
                try:
                    resource.destroy(driver)
                finally:
                    resource.made = None


class _Resource:
    """Something that the driver made."""

    def __init__(self, device: Device, made: Any) -> None:
        self._device = device
        self.made = made

    def free(self) -> None:
        """Give it back; twice is harmless, and nothing is raised."""
        self._device._drop(self)

    def destroy(self, driver: Driver) -> None:
        """Called once, with the context current."""
        raise NotImplementedError

    @contextmanager
    def opened(self, *others: _Resource) -> Iterator[Driver]:
        """The context current, for a use of this and the others.

        Raises:
            InferenceError: one of them is freed. Its handle would be nothing, and the driver takes
                nothing for the default stream.
        """
        for used in (self, *others):
            if used not in used._device._open:
                name = type(used).__name__.lower()
                raise InferenceError(f"this CUDA {name} is freed; load the artefact again")
        with self._device.current() as driver:
            yield driver


@final
class DeviceMemory(_Resource):
    """Device memory."""

    def __init__(self, device: Device, made: Any, address: int, nbytes: int) -> None:
        super().__init__(device, made)
        self.address = address
        self.nbytes = nbytes

    def destroy(self, driver: Driver) -> None:
        driver.free(self.made)


@final
class PinnedMemory(_Resource):
    """Page-locked host memory."""

    def __init__(self, device: Device, made: Any, array: NDArray[np.uint8]) -> None:
        super().__init__(device, made)
        self.array = array
        """uint8 ``[nbytes]``; not to be touched once it is freed."""

    def destroy(self, driver: Driver) -> None:
        driver.free_pinned(self.made)


@final
class Stream(_Resource):
    """Work that is done in order, behind the caller's back."""

    def __init__(self, device: Device, made: Any, handle: int) -> None:
        super().__init__(device, made)
        self.handle = handle
        """CUstream, as TensorRT takes it."""

    def copy_in(self, target: DeviceMemory, source: PinnedMemory, nbytes: int) -> None:
        """Queue a copy of the first bytes to the device; ``source`` must not change until it is done.

        Raises:
            InferenceError: one of them is shorter, or the driver refuses.
        """
        _check_length(nbytes, target.nbytes, source.array.nbytes)
        with self.opened() as driver:
            driver.copy_in(target.address, source.array[:nbytes], self.made)

    def copy_out(self, target: PinnedMemory, source: DeviceMemory, nbytes: int) -> None:
        """Queue a copy of the first bytes from the device; ``target`` is good once it is done.

        Raises:
            InferenceError: one of them is shorter, or the driver refuses.
        """
        _check_length(nbytes, source.nbytes, target.array.nbytes)
        with self.opened() as driver:
            driver.copy_out(target.array[:nbytes], source.address, self.made)

    def wait(self, event: Event) -> None:
        """Queue nothing more until ``event``, recorded in another stream, has come. Raises InferenceError."""
        with self.opened(event) as driver:
            driver.wait(self.made, event.made)

    def wait_for(self, handle: int) -> None:
        """Queue nothing more until what a foreign stream holds now is done.

        Args:
            handle: CUstream of another library; 0 is the default stream.

        Raises:
            InferenceError: the driver refuses.
        """
        event = self._device.event()
        try:
            with self.opened() as driver:
                driver.record_foreign(event.made, handle)
                driver.wait(self.made, event.made)
        finally:
            event.free()  # the driver keeps it for as long as somebody waits

    def synchronize(self) -> None:
        """Wait until all of it is done. Raises InferenceError for what failed in it."""
        with self.opened() as driver:
            driver.synchronize(self.made)

    def destroy(self, driver: Driver) -> None:
        driver.destroy_stream(self.made)


@final
class Event(_Resource):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Put the mark behind what ``stream`` holds now. Raises InferenceError."""
        with self.opened(stream) as driver:
            driver.record(self.made, stream.made)

    def synchronize(self) -> None:
        """Wait until the stream has reached it. Raises InferenceError for what failed before it."""
        with self.opened() as driver:
            driver.synchronize_event(self.made)

    def elapsed_ms(self, start: Event) -> float:
        """Milliseconds from ``start`` to this one; both must have come. Raises InferenceError."""
        with self.opened(start) as driver:
            return driver.elapsed_ms(start.made, self.made)

    def destroy(self, driver: Driver) -> None:
        driver.destroy_event(self.made)


@final
class Graph(_Resource):
    """Recorded work that is queued again in one call."""

    def launch(self, stream: Stream) -> None:
        """Queue it. Raises InferenceError."""
        with self.opened(stream) as driver:
            driver.launch(self.made, stream.made)

    def destroy(self, driver: Driver) -> None:
        driver.destroy_graph(self.made)


def _check_length(nbytes: int, *available: int) -> None:
    if nbytes > min(available):
        raise InferenceError(f"a copy of {nbytes} bytes does not fit {min(available)}")


def _megabytes(nbytes: int) -> str:
    return f"could not allocate {nbytes / 1e6:.1f} MB"


def _of_free(driver: Driver) -> str:
    try:
        return f" ({driver.memory_info()[0] / 1e6:.1f} MB are free)"
    except InferenceError:
        return ""
