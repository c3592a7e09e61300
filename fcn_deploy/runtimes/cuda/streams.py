"""Streams of work, events that order and time it, and CUDA graphs that replay it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, final

from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.cuda.driver import Driver
from fcn_deploy.runtimes.cuda.memory import DeviceMemory, PinnedMemory
from fcn_deploy.runtimes.cuda.resource import Owner, Resource


@final
class Stream(Resource):
    """Work that the device does in order, while the caller goes on."""

    def __init__(self, owner: Owner, native: Any, handle: int) -> None:
        super().__init__(owner, native)
        self.handle = handle
        """CUstream, as TensorRT takes it."""

    def copy_in(self, target: DeviceMemory, source: PinnedMemory, nbytes: int) -> None:
        """Enqueue a copy of the first bytes to the device; ``source`` must not change until it is done.

        Raises:
            InferenceError: one of them is shorter, or the driver refuses.
        """
        _check_length(nbytes, target.nbytes, source.array.nbytes)
        with self.in_context() as driver:
            driver.copy_in(target.address, source.array[:nbytes], self.native)

    def copy_out(self, target: PinnedMemory, source: DeviceMemory, nbytes: int) -> None:
        """Enqueue a copy of the first bytes from the device; ``target`` is valid once it is done.

        Raises:
            InferenceError: one of them is shorter, or the driver refuses.
        """
        _check_length(nbytes, source.nbytes, target.array.nbytes)
        with self.in_context() as driver:
            driver.copy_out(target.array[:nbytes], source.address, self.native)

    def wait(self, event: Event) -> None:
        """Later work in this stream waits for ``event``, recorded in another. Raises InferenceError."""
        with self.in_context(event) as driver:
            driver.wait(self.native, event.native)

    def wait_for(self, handle: int) -> None:
        """Later work in this stream waits for what another library's stream holds now.

        Args:
            handle: CUstream of another library; 0 is the default stream.

        Raises:
            InferenceError: the driver refuses.
        """
        with self.in_context() as driver:
            event = driver.create_event()
            try:
                driver.record_foreign(event, handle)
                driver.wait(self.native, event)
            finally:
                with suppress(InferenceError):
                    driver.destroy_event(event)  # the driver keeps it for as long as a stream waits for it

    def synchronize(self) -> None:
        """Wait until all of its work is done. Raises InferenceError for what failed in it."""
        with self.in_context() as driver:
            driver.synchronize(self.native)

    def destroy(self, driver: Driver) -> None:
        driver.destroy_stream(self.native)


@final
class Event(Resource):
    """A mark in a stream, with its time."""

    def record(self, stream: Stream) -> None:
        """Put the mark after what ``stream`` holds now. Raises InferenceError."""
        with self.in_context(stream) as driver:
            driver.record(self.native, stream.native)

    def synchronize(self) -> None:
        """Wait until the stream has reached it. Raises InferenceError for what failed before it."""
        with self.in_context() as driver:
            driver.synchronize_event(self.native)

    def elapsed_ms(self, start: Event) -> float:
        """Milliseconds from ``start`` to this one; both must be reached. Raises InferenceError."""
        with self.in_context(start) as driver:
            return driver.elapsed_ms(start.native, self.native)

    def destroy(self, driver: Driver) -> None:
        driver.destroy_event(self.native)


@final
class Graph(Resource):
    """A CUDA graph: captured work that one call enqueues again."""

    def launch(self, stream: Stream) -> None:
        """Enqueue it. Raises InferenceError."""
        with self.in_context(stream) as driver:
            driver.launch(self.native, stream.native)

    def destroy(self, driver: Driver) -> None:
        driver.destroy_graph(self.native)


def _check_length(nbytes: int, *available: int) -> None:
    if nbytes > min(available):
        raise InferenceError(f"a copy of {nbytes} bytes does not fit {min(available)}")
