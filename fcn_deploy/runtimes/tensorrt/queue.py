"""The one stream in which an engine runs: contexts by profile, shared scratch memory, CUDA graphs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, final

from fcn_deploy.errors import FcnDeployError, InferenceError
from fcn_deploy.runtimes.cuda import Device, DeviceFrames, Graph
from fcn_deploy.runtimes.tensorrt import loading
from fcn_deploy.runtimes.tensorrt.loading import ContextFactory
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size
from fcn_deploy.runtimes.tensorrt.results import ResultMemory
from fcn_deploy.runtimes.tensorrt.slots import EngineOutput, Slot

GRAPHS = 16
"""CUDA graphs kept, by frame size and slot."""


class _Captured(NamedTuple):
    """A CUDA graph, and the context whose memory it uses."""

    graph: Graph
    context: Any


@final
class EngineQueue:
    """Enqueues an engine's work, one frame after another. Any thread may call it.

    Args:
        device: where the engine runs.
        engine: TensorRT's.
        factory: of its execution contexts.
        outputs: of the engine, whose shapes are checked.

    Raises:
        InferenceError: there is not enough memory.
    """

    def __init__(
        self,
        device: Device,
        engine: Any,
        factory: ContextFactory,
        outputs: tuple[EngineOutput, ...],
    ) -> None:
        self.profile: Profile | None = None
        """The one that was used last."""
        self._lock = threading.Lock()
        self._device = device
        self._factory = factory
        self._outputs = outputs
        self._contexts: dict[int, Any] = {}
        self._graphs: OrderedDict[tuple[Size, int], _Captured | None] = OrderedDict()
        self._no_graph = "" if device.can_capture else f"{device.binding} cannot capture them"
        self._scratch_bytes: int = engine.device_memory_size_v2
        with ExitStack() as stack:
            self.stream = device.stream()
            stack.callback(self.stream.free)
            self._scratch = device.memory(max(self._scratch_bytes, 1))
            stack.callback(self._scratch.free)
            self._allocations = stack.pop_all()

    @property
    def cuda_graph(self) -> str:
        """Whether CUDA graphs are used, in words."""
        if self._factory.captures:
            return "yes, TensorRT-RTX's own"
        return f"no: {self._no_graph}" if self._no_graph else "yes"

    def enqueue(self, slot: Slot, profile: Profile, size: Size) -> None:
        """Enqueue the frames that are loaded in a slot: copy in, run, copy out. Does not wait for them.

        Args:
            slot: holds the frames, and gets the results.
            profile: that the size fits.
            size: of the frames.

        Raises:
            InferenceError: TensorRT or the driver failed.
        """
        with self._lock:
            slot.enqueue_copy_in(size, self.stream)
            self._run(profile, size, slot.addresses(), slot.number)
            slot.enqueue_copy_out(size, self.stream)

    def enqueue_on_device(
        self, frames: DeviceFrames, memory: ResultMemory, profile: Profile, size: Size
    ) -> None:
        """Enqueue frames that lie on the device; ``memory.ready`` is recorded behind them.

        Args:
            frames: are read where they lie, after the work that their stream holds.
            memory: gets the results.
            profile: that the size fits.
            size: of the frames.

        Raises:
            InferenceError: TensorRT or the driver failed.
        """
        with self._lock:
            if frames.stream is not None:
                self.stream.wait_for(frames.stream)
            self._run(profile, size, {"image": frames.address, **memory.addresses()})
            memory.ready.record(self.stream)

    def free(self) -> None:
        """Free everything; nothing may be enqueued any more, and the device's context is current."""
        for captured in self._graphs.values():
            if captured is not None:
                captured.graph.free()
        self._graphs.clear()
        self._contexts.clear()
        self._allocations.close()

    def _run(
        self, profile: Profile, size: Size, addresses: Mapping[str, int], slot: int | None = None
    ) -> None:
        """Enqueue the engine for one batch.

        Args:
            profile: that the size fits.
            size: of the frames.
            addresses: tensor name -> device memory, of the input and all outputs.
            slot: number of the slot that always has these addresses, so that a CUDA graph may hold them;
                None where they change.
        """
        key = None if slot is None or self._factory.captures or self._no_graph else (size, slot)
        if key is not None and (captured := self._graphs.get(key)) is not None:
            self._graphs.move_to_end(key)
            captured.graph.launch(self.stream)
        else:
            seen = key is not None and key in self._graphs
            context = self._context_to_capture(profile) if seen else self._context(profile)
            self._bind(context, size, addresses)
            self._execute(context)
            if key is not None:
                # Only the second frame of a size is captured: a size that comes once costs nothing.
                self._remember(key, self._capture(context) if seen and not self._no_graph else None)
        self.profile = profile

    def _context(self, profile: Profile) -> Any:
        """The context of a profile, which never switches to another: that would cost time at every frame."""
        if profile.index not in self._contexts:
            self._contexts[profile.index] = self._make_context(profile)
        return self._contexts[profile.index]

    def _context_to_capture(self, profile: Profile) -> Any:
        """A new context: one that a graph was captured from must not be changed any more.

        Source: "CUDA Graphs" in TensorRT's best practices. Where none can be made, the profile's own is
        returned, and no graphs are captured from now on.
        """
        try:
            return self._make_context(profile)
        except FcnDeployError as exc:
            self._no_graph = str(exc)
            return self._context(profile)

    def _make_context(self, profile: Profile) -> Any:
        with self._device.current():
            context = self._factory.create()
            if self._scratch_bytes:
                context.set_device_memory(self._scratch.address, self._scratch_bytes)
            switched = context.set_optimization_profile_async(profile.index, self.stream.handle)
            self._check(switched, f"switch to the optimization profile {profile}")
        self.stream.synchronize()
        return context

    def _bind(self, context: Any, size: Size, addresses: Mapping[str, int]) -> None:
        loading.clear_last_error()
        with self._device.current():
            self._check(context.set_input_shape("image", (*size, 3)), f"take frames of {size}")
            for output in self._outputs:
                found = tuple(context.get_tensor_shape(output.name))
                if found != output.shape(size):
                    raise InferenceError(
                        f"the engine would return {output.name} of shape {found} for frames of {size}, "
                        f"expected {output.shape(size)}; build it again from an exported ONNX file"
                    )
            for name, address in addresses.items():
                self._check(context.set_tensor_address(name, address), f"use the memory of {name}")

    def _execute(self, context: Any) -> None:
        loading.clear_last_error()
        with self._device.current():
            self._check(context.execute_async_v3(self.stream.handle), "run the engine")

    def _check(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise InferenceError(f"TensorRT could not {what}: {loading.last_error()}")

    def _remember(self, key: tuple[Size, int], captured: _Captured | None) -> None:
        self._graphs[key] = captured
        self._graphs.move_to_end(key)
        while len(self._graphs) > GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self.stream.synchronize()  # its context must not be freed while a replay is in flight
                oldest.graph.free()

    def _capture(self, context: Any) -> _Captured | None:
        """A graph of the run that ``context`` has just done; None where it cannot be captured.

        TensorRT needs that run before a capture, with the same sizes and addresses, for its lazy set-up.
        """
        try:
            graph = self._device.capture(self.stream, lambda: self._execute(context))
            return _Captured(graph, context)
        except FcnDeployError as exc:
            # The engine runs without graphs from now on, and ``details()`` says so.
            self._no_graph = str(exc)
            return None
