"""TensorRT and TensorRT-RTX: an engine on the GPU that it was built for.

How it works, top to bottom:

* **Opening.** The sidecar and its hash are checked before a byte of the engine is executed, then
  version, system and compute capability; TensorRT-RTX also checks the header itself.
* **Contexts.** One execution context for each optimization profile, made when a frame first needs
  it. They never compute at the same time - all computing is queued on one stream - so they share
  one piece of scratch memory, as large as the largest profile wants.
* **Frames.** A frame takes one of two slots (:mod:`~fcn_deploy.runtimes.tensorrt.slots`): copied into
  pinned memory, then queued as copy in, compute, copy out, and waited for. Two threads may do this
  at once, which is how ``submit()`` and ``stream()`` copy one frame while another is computed.
* **CUDA graphs.** The second frame of a size in a slot is captured and later ones are replayed;
  the last 16 are kept. TensorRT-RTX captures by itself and is left to it.
* **Device arrays.** :meth:`TensorRT.infer_device` reads frames where they lie and answers in
  device memory that it lends until the answer is dropped.

None of this has run on a real GPU; the tests run it on a simulated driver (docs: what was proven).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from fcn_deploy.errors import BackendUnavailable, InferenceError, MissingDependency
from fcn_deploy.lazy import import_tensorrt
from fcn_deploy.runtimes.base import Frames, cuda_index
from fcn_deploy.runtimes.cuda.arrays import DeviceSegmentation, device_frames
from fcn_deploy.runtimes.cuda.device import Device, open_device
from fcn_deploy.runtimes.cuda.driver import DeviceLost
from fcn_deploy.runtimes.cuda.gpus import describe_gpu, gpu_problem
from fcn_deploy.runtimes.device import DeviceRuntime
from fcn_deploy.runtimes.tensorrt import loading as engine_loading
from fcn_deploy.runtimes.tensorrt.loading import ContextFactory
from fcn_deploy.runtimes.tensorrt.pool import ResourcePool
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size, choose, max_batch, most_pixels
from fcn_deploy.runtimes.tensorrt.queue import EngineQueue
from fcn_deploy.runtimes.tensorrt.results import ResultMemory, ResultPool
from fcn_deploy.runtimes.tensorrt.sidecar import TENSORRT_RTX, Host, Sidecar, load_engine, read_sidecar
from fcn_deploy.runtimes.tensorrt.slots import SLOTS, Slot, outputs_of, settle


@final
class TensorRT(DeviceRuntime):
    """One engine, for two threads at a time.

    Args:
        trt: TensorRT's module.
        path: the engine, for messages and for the cache beside it.
        data: its bytes, checked.
        sidecar: its description.
        device: where it runs; closed with the runtime.

    Raises:
        EngineError: TensorRT refuses it, or it is no deploy graph.
        InferenceError: there is not enough memory.
    """

    backend = "tensorrt"
    concurrency = SLOTS

    def __init__(self, trt: Any, path: Path, data: bytes, sidecar: Sidecar, device: Device) -> None:
        super().__init__(sidecar.spec, f"cuda:{device.index}")
        self._device = device
        self._tensorrt = f"{sidecar.line} {trt.__version__}"
        self._free_before = device.free_bytes()
        with device.current():
            self._engine_runtime, self._engine = engine_loading.deserialize(
                trt, path, data, compatible=sidecar.version_compatible
            )
            engine_loading.check_deploy_engine(self._engine, self.spec, path)
            self._profiles = engine_loading.profiles_of(self._engine)
            self._factory = ContextFactory(trt, self._engine, path, rtx=sidecar.line == TENSORRT_RTX)
        outputs = outputs_of(self.spec.outputs, self.spec.num_classes)
        pixels = most_pixels(self._profiles)
        self._queue = EngineQueue(device, self._engine, self._factory, outputs)
        self._slots = ResourcePool(
            lambda number: Slot(device, number, outputs, pixels),
            SLOTS,
            closed="this tensorrt runtime is closed; load the artefact again",
        )
        self._answers = ResultPool(lambda: ResultMemory(device, outputs, pixels), last=device.close)
        self._times: dict[str, float] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        device: str | None = None,
        cuda_binding: str | None = None,
        expect_sha256: str | None = None,
    ) -> TensorRT:
        """Open an engine that ``fcn-deploy build-engine`` built for this GPU.

        Raises:
            EngineError: the sidecar is missing or of another file, the engine is for another
                TensorRT, system or GPU, or TensorRT refuses it.
            BackendUnavailable: there is no GPU, no TensorRT of its line or no CUDA binding, or a CPU
                was asked for.
            InferenceError: there is not enough memory on the GPU.
        """
        if device == "cpu":
            raise BackendUnavailable(
                f"{path} is an engine and runs on an NVIDIA GPU only; choose device cuda, or load the "
                ".onnx file"
            )
        index = cuda_index(device)
        gpu = describe_gpu(index)
        if gpu is None:
            raise BackendUnavailable(f"{path} is an engine and cannot run here: {gpu_problem(index)}")
        line = read_sidecar(path).line
        trt = _import(line, path)
        host = Host(line, trt.__version__, gpu.compute_capability, gpu.name)
        data, sidecar = load_engine(path, host, expect_sha256)
        with ExitStack() as opened:
            gpu_device = open_device(index, cuda_binding)
            opened.callback(gpu_device.close)
            runtime = cls(trt, path, data, sidecar, gpu_device)
            opened.pop_all()
        return runtime

    @property
    def max_batch(self) -> int:
        """As :func:`~fcn_deploy.runtimes.tensorrt.profiles.max_batch` of the engine's profiles."""
        return max_batch(self._profiles)

    def details(self) -> dict[str, Any]:
        return {
            "tensorrt": self._tensorrt,
            "cuda_binding": self._device.binding,
            "gpu": self._device.name,
            "cuda_graph": self._queue.cuda_graph,
            "profiles": [str(profile) for profile in self._profiles],
            "profile": None if self._queue.profile is None else str(self._queue.profile),
            "gpu_memory_mb": self._memory_mb(),
        }

    def device_times(self) -> dict[str, float]:
        """``copy_in``, ``compute`` and ``copy_out`` of the last frame from host memory, by CUDA events."""
        return dict(self._times)

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        size: Size = images.shape[:3]
        profile = choose(self._profiles, size)
        with self._watched():
            slot: Slot = self._slots.take()
            try:
                return self._labelled(slot, images, size, profile)
            except BaseException:
                settle(self._queue.stream, slot.copies)
                raise
            finally:
                self._slots.give(slot)

    def _labelled(self, slot: Slot, images: Frames, size: Size, profile: Profile) -> dict[str, NDArray[Any]]:
        slot.load(images)
        queue = self._queue
        with queue.lock:
            slot.start(size, queue.stream, lambda: queue.run(profile, size, slot.addresses(), slot.number))
        answers = slot.finish(size)
        self._times = slot.times()
        return answers

    def _infer_device(self, images: Any) -> DeviceSegmentation:
        stream = self._queue.stream
        frames = device_frames(images, self.spec, self._device.index, stream.handle)
        size: Size = frames.shape[:3]  # type: ignore[assignment]
        profile = choose(self._profiles, size)
        with self._watched():
            memory = self._answers.take()
            try:
                with self._queue.lock:
                    if frames.stream is not None:
                        stream.wait_for(frames.stream)
                    self._queue.run(profile, size, {"image": frames.address, **memory.addresses()})
                    memory.ready.record(stream)
                memory.ready.synchronize()
            except BaseException:
                settle(stream)
                self._answers.give(memory)
                raise
        return self._answers.lend(memory, size, self.spec)

    def _release(self) -> None:
        for slot in self._slots.close():
            slot.free()
        with suppress(InferenceError), ExitStack() as current:
            with suppress(InferenceError):  # a lost device may have no context to be made current
                current.enter_context(self._device.current())
            self._queue.free()
            self._factory.close()
            # TensorRT wants what was made from a thing to go before it.
            self._engine = self._engine_runtime = None
        self._answers.close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Says what can be done about a device that is lost."""
        try:
            yield
        except DeviceLost as exc:
            raise DeviceLost(
                f"{self.device} ({self._device.name}) stopped answering, and this process cannot use it any "
                f"more; start the program again ({exc})"
            ) from exc

    def _memory_mb(self) -> float | None:
        """What the GPU has less of since this was opened, in megabytes; None once that cannot be asked."""
        try:
            free = self._device.free_bytes()
        except InferenceError:
            return None
        return round(max(self._free_before - free, 0) / 1e6, 1)


def _import(line: str, path: Path) -> Any:
    """TensorRT's module of the line that built an engine."""
    try:
        return import_tensorrt("rtx" if line == TENSORRT_RTX else "tensorrt")
    except MissingDependency as exc:
        raise BackendUnavailable(f"{path} was built by {line}, and {exc}") from exc
