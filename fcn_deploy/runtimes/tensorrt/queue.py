"""The one stream on which an engine computes: contexts by profile, shared scratch memory, CUDA graphs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, final

from fcn_deploy.errors import FcnDeployError, InferenceError
from fcn_deploy.runtimes.cuda.device import Device, Graph
from fcn_deploy.runtimes.tensorrt import loading as engine_loading
from fcn_deploy.runtimes.tensorrt.loading import ContextFactory
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size
from fcn_deploy.runtimes.tensorrt.slots import Output

GRAPHS = 16
"""CUDA graphs kept, by frame size and slot."""


class _Captured(NamedTuple):
    """A CUDA graph, and the context whose memory it uses."""

    graph: Graph
    context: Any


@final
class EngineQueue:
    """Queues an engine's work, one frame after another. Callers hold :attr:`lock` while they queue.

    Args:
        device: where.
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
        outputs: tuple[Output, ...],
    ) -> None:
        self.lock = threading.Lock()
        self.profile: Profile | None = None
        """The one that was used last."""
        self._device = device
        self._factory = factory
        self._outputs = outputs
        self._contexts: dict[int, Any] = {}
        self._graphs: OrderedDict[tuple[Size, int], _Captured | None] = OrderedDict()
        self._no_graph = "" if device.can_capture else f"{device.binding} cannot capture them"
        self._scratch_bytes: int = engine.device_memory_size_v2
        with ExitStack() as made:
            self.stream = device.stream()
            made.callback(self.stream.free)
            self._scratch = device.memory(max(self._scratch_bytes, 1))
            made.callback(self._scratch.free)
            self._made = made.pop_all()

    @property
    def cuda_graph(self) -> str:
        """Whether CUDA graphs are used, in words."""
        if self._factory.captures:
            return "yes, TensorRT-RTX's own"
        return f"no: {self._no_graph}" if self._no_graph else "yes"

    def run(
        self, profile: Profile, size: Size, addresses: Mapping[str, int], slot: int | None = None
    ) -> None:
        """Queue one frame.

        Args:
            profile: that the size fits.
            size: of the frames.
            addresses: of the input and the outputs in device memory.
            slot: whose addresses are always these, so that a graph may hold them; None for others'.

        Raises:
            InferenceError: TensorRT failed.
        """
        key = None if slot is None or self._factory.captures or self._no_graph else (size, slot)
        if key is not None and (captured := self._graphs.get(key)) is not None:
            self._graphs.move_to_end(key)
            captured.graph.launch(self.stream)
        else:
            again = key is not None and key in self._graphs
            context = self._context_to_capture(profile) if again else self._context(profile)
            self._bind(context, size, addresses)
            self._execute(context)
            if key is not None:
                # The first frame of a size is noted, the second captured: sizes seen once cost nothing.
                self._remember(key, self._capture(context) if again and not self._no_graph else None)
        self.profile = profile

    def free(self) -> None:
        """Give everything back; nothing may be queued any more, and the device's context is current."""
        for captured in self._graphs.values():
            if captured is not None:
                captured.graph.free()
        self._graphs.clear()
        self._contexts.clear()
        self._made.close()

    def _context(self, profile: Profile) -> Any:
        """The context of a profile, which keeps it for good: switching profiles would cost every frame."""
        if profile.index not in self._contexts:
            self._contexts[profile.index] = self._make_context(profile)
        return self._contexts[profile.index]

    def _context_to_capture(self, profile: Profile) -> Any:
        """A context of its own: one that a graph was captured from must not be changed any more.

        Source: "CUDA Graphs" in TensorRT's best practices. Where none can be made, the profile's, and no
        graphs from now on.
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
            chosen = context.set_optimization_profile_async(profile.index, self.stream.handle)
            self._check(chosen, f"switch to the optimization profile {profile}")
        self.stream.synchronize()
        return context

    def _bind(self, context: Any, size: Size, addresses: Mapping[str, int]) -> None:
        engine_loading.clear_last_error()
        with self._device.current():
            self._check(context.set_input_shape("image", (*size, 3)), f"take frames of {size}")
            for output in self._outputs:
                found = tuple(context.get_tensor_shape(output.name))
                if found != output.shape(size):
                    raise InferenceError(
                        f"the engine would answer {output.name} of shape {found} for frames of {size} and "
                        f"{output.shape(size)} is expected; build it again from an exported ONNX file"
                    )
            for name, address in addresses.items():
                self._check(context.set_tensor_address(name, address), f"use the memory of {name}")

    def _execute(self, context: Any) -> None:
        engine_loading.clear_last_error()
        with self._device.current():
            self._check(context.execute_async_v3(self.stream.handle), "run the engine")

    def _check(self, answer: bool, what: str) -> None:
        if not answer:
            raise InferenceError(f"TensorRT could not {what}: {engine_loading.last_error()}")

    def _remember(self, key: tuple[Size, int], captured: _Captured | None) -> None:
        self._graphs[key] = captured
        self._graphs.move_to_end(key)
        while len(self._graphs) > GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self.stream.synchronize()  # its context must not go while a replay is in flight
                oldest.graph.free()

    def _capture(self, context: Any) -> _Captured | None:
        """The context was used with this size and these addresses just now, as TensorRT wants it before
        a capture: what it sets up lazily is done."""
        try:
            graph = self._device.capture(self.stream, lambda: self._execute(context))
            return _Captured(graph, context)
        except FcnDeployError as exc:
            # An engine that cannot be captured runs without graphs, and says so.
            self._no_graph = str(exc)
            return None
