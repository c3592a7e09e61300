"""One GPU: it makes memory, streams, events and CUDA graphs, and frees what is left when it is closed.

It uses the GPU's primary context, so it works beside PyTorch and TensorRT in one process, and makes it
current only for the time of a call, so any thread may use it. Freeing twice is harmless, and freeing
never raises: there is nothing that a caller could do about it.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, final

from fcn_deploy.errors import BackendUnavailable, InferenceError, UsageError
from fcn_deploy.runtimes.cuda.driver import BINDINGS, DeviceLost, Driver, binding_problem
from fcn_deploy.runtimes.cuda.memory import DeviceMemory, PinnedMemory
from fcn_deploy.runtimes.cuda.resource import Resource
from fcn_deploy.runtimes.cuda.streams import Event, Graph, Stream


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


_AnyResource = TypeVar("_AnyResource", bound=Resource)


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
        self._allocated: set[Resource] = set()
        self._lock = threading.RLock()
        self._closed = False

    @contextmanager
    def current(self) -> Iterator[Driver]:
        """The context current in this thread, as TensorRT's own calls need it.

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
        """Device memory, not initialised.

        Raises:
            InferenceError: there is not enough; says how much was asked for and how much is free.
        """
        with self.current() as driver:
            try:
                native = driver.allocate(nbytes)
            except DeviceLost:
                raise
            except InferenceError as exc:
                raise InferenceError(
                    f"{_could_not_allocate(nbytes)} of GPU memory{_free_in_words(driver)}: {exc}"
                ) from exc
            return self._register(DeviceMemory(self, native, driver.address(native), nbytes))

    def pinned(self, nbytes: int) -> PinnedMemory:
        """Page-locked host memory, which asynchronous copies need.

        Raises:
            InferenceError: there is not enough.
        """
        with self.current() as driver:
            try:
                native, array = driver.allocate_pinned(nbytes)
            except DeviceLost:
                raise
            except InferenceError as exc:
                raise InferenceError(f"{_could_not_allocate(nbytes)} of pinned host memory: {exc}") from exc
            return self._register(PinnedMemory(self, native, array))

    def stream(self) -> Stream:
        """A stream that does not wait for any other. Raises InferenceError."""
        with self.current() as driver:
            native = driver.create_stream()
            return self._register(Stream(self, native, driver.stream_handle(native)))

    def event(self) -> Event:
        """A mark in a stream, with its time. Raises InferenceError."""
        with self.current() as driver:
            return self._register(Event(self, driver.create_event()))

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """What ``enqueue`` puts into ``stream``, captured as a CUDA graph and not run.

        Only this thread's calls are captured, so other threads may allocate meanwhile.

        Raises:
            InferenceError: the binding or the driver cannot capture it.
        """
        if not self.can_capture:
            raise InferenceError(f"{self.binding} cannot capture CUDA graphs")
        with stream.in_context() as driver:
            driver.begin_capture(stream.native)
            try:
                enqueue()
            except BaseException:
                with suppress(InferenceError):  # the capture has to be ended; its graph is of no use
                    driver.destroy_graph(driver.end_capture(stream.native))
                raise
            return self._register(Graph(self, driver.end_capture(stream.native)))

    def close(self) -> None:
        """Free all that is still allocated and release the context; twice is harmless."""
        with self._lock:
            if self._closed:
                return
            # Work in a stream may still use memory: wait for all of it first, and free streams last.
            for stream in [r for r in self._allocated if isinstance(r, Stream)]:
                with suppress(InferenceError):
                    stream.synchronize()
            for resource in sorted(self._allocated, key=lambda r: isinstance(r, Stream)):
                resource.free()
            self._closed = True
            with suppress(InferenceError):
                self._driver.release()

    def owns(self, resource: Resource) -> bool:
        """Whether ``resource`` is allocated here and not freed yet."""
        return resource in self._allocated

    def release(self, resource: Resource) -> None:
        """Free ``resource`` once; raises nothing."""
        with self._lock:
            if resource not in self._allocated:
                return
            self._allocated.discard(resource)
            with suppress(InferenceError), self.current() as driver:
                try:
                    resource.destroy(driver)
                finally:
                    resource.native = None

    def _register(self, resource: _AnyResource) -> _AnyResource:
        with self._lock:
            self._allocated.add(resource)
        return resource


def _could_not_allocate(nbytes: int) -> str:
    return f"could not allocate {nbytes / 1e6:.1f} MB"


def _free_in_words(driver: Driver) -> str:
    try:
        return f" ({driver.memory_info()[0] / 1e6:.1f} MB are free)"
    except InferenceError:
        return ""
