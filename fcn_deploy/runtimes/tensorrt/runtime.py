"""TensorRT and TensorRT-RTX: an engine on the GPU that it was built for.

How it works, top to bottom:

* **Opening.** The sidecar is read once. TensorRT's flavor and version, the system, the compute
  capability and the engine's hash are checked before a byte of the engine is executed; TensorRT-RTX also
  checks the engine's header itself.
* **Contexts.** One execution context for each optimization profile, made when a frame first needs
  it. They never run at the same time, because all runs are enqueued in one stream, so they share one
  piece of scratch memory, as large as the largest profile needs.
* **Frames.** A frame acquires one of two slots (:mod:`~fcn_deploy.runtimes.tensorrt.slots`): it is copied
  into pinned memory, then copy in, run and copy out are enqueued, and waited for. Two threads may do this
  at the same time, which is how ``submit()`` and ``stream()`` copy one frame while another is computed.
* **CUDA graphs.** The second frame of a size in a slot is captured and later ones are replayed;
  the last 16 graphs are kept. TensorRT-RTX captures graphs itself.
* **Device arrays.** :meth:`TensorRT.infer_device` reads frames where they lie and writes the result into
  device memory that is reused once the result is dropped.

None of this has run on a real GPU yet; the tests run it on a simulated driver (docs/explanation/proven.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from fcn_deploy.errors import BackendUnavailable, InferenceError, MissingDependency
from fcn_deploy.lazy import import_tensorrt
from fcn_deploy.runtimes.base import Frames, check_frame_shape, cuda_index
from fcn_deploy.runtimes.cuda import (
    Device,
    DeviceLost,
    DeviceSegmentation,
    device_frames,
    gpu_problem,
    open_device,
)
from fcn_deploy.runtimes.device import DeviceRuntime
from fcn_deploy.runtimes.tensorrt.loading import (
    ContextFactory,
    check_deploy_engine,
    deserialize,
    profiles_of,
)
from fcn_deploy.runtimes.tensorrt.pool import ResourcePool
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size, choose, max_batch, most_pixels
from fcn_deploy.runtimes.tensorrt.queue import EngineQueue
from fcn_deploy.runtimes.tensorrt.results import ResultMemory, ResultPool
from fcn_deploy.runtimes.tensorrt.sidecar import (
    TENSORRT_RTX,
    Host,
    Sidecar,
    check_host,
    read_engine,
    read_sidecar,
)
from fcn_deploy.runtimes.tensorrt.slots import SLOTS, Slot, outputs_of, synchronize_after_error


@final
class TensorRT(DeviceRuntime):
    """One engine, for two threads at a time.

    Args:
        trt: TensorRT's module.
        path: the engine, for messages and for the cache beside it.
        data: its bytes, checked.
        sidecar: of this engine.
        device: where it runs; closed with the runtime.

    Raises:
        EngineError: TensorRT refuses it, or it is not a deploy graph.
        InferenceError: there is not enough memory.
    """

    backend = "tensorrt"
    concurrency = SLOTS

    def __init__(self, trt: Any, path: Path, data: bytes, sidecar: Sidecar, device: Device) -> None:
        super().__init__(sidecar.spec, f"cuda:{device.index}")
        self._device = device
        self._tensorrt = f"{sidecar.product} {trt.__version__}"
        self._free_before = device.free_bytes()
        with device.current():
            self._engine_runtime, self._engine = deserialize(
                trt, path, data, compatible=sidecar.version_compatible
            )
            check_deploy_engine(self._engine, self.spec, path)
            self._profiles = profiles_of(self._engine)
            self._factory = ContextFactory(trt, self._engine, path, rtx=sidecar.flavor == TENSORRT_RTX)
        outputs = outputs_of(self.spec.outputs, self.spec.num_classes)
        pixels = most_pixels(self._profiles)
        self._queue = EngineQueue(device, self._engine, self._factory, outputs)
        self._slots = ResourcePool(
            lambda number: Slot(device, number, outputs, pixels),
            SLOTS,
            closed="this tensorrt runtime is closed; load the artefact again",
        )
        self._results = ResultPool(lambda: ResultMemory(device, outputs, pixels), when_empty=device.close)
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
            UsageError: an option cannot be used.
            BackendUnavailable: there is no GPU, no TensorRT of the engine's flavor or no CUDA binding, or
                a CPU was asked for.
            InferenceError: there is not enough memory on the GPU.
        """
        if device == "cpu":
            raise BackendUnavailable(
                f"{path} is an engine and runs on an NVIDIA GPU only; choose device cuda, or load the "
                ".onnx file"
            )
        sidecar = read_sidecar(path)
        trt = _import(sidecar, path)
        with ExitStack() as stack:
            gpu_device = _open_device(path, cuda_index(device), cuda_binding)
            stack.callback(gpu_device.close)
            host = Host(sidecar.flavor, trt.__version__, gpu_device.compute_capability, gpu_device.name)
            check_host(path, sidecar, host)
            data = read_engine(path, sidecar, expect_sha256)
            runtime = cls(trt, path, data, sidecar, gpu_device)
            stack.pop_all()
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
        with self._lost_device_explained():
            slot = self._slots.acquire()
            try:
                return self._infer_in(slot, images, size, profile)
            except BaseException:
                synchronize_after_error(self._queue.stream, slot.copies)
                raise
            finally:
                self._slots.release(slot)

    def _infer_in(self, slot: Slot, images: Frames, size: Size, profile: Profile) -> dict[str, NDArray[Any]]:
        slot.load(images)
        self._queue.enqueue(slot, profile, size)
        results = slot.wait_for_results(size)
        self._times = slot.times()
        return results

    def _infer_device(self, images: Any) -> DeviceSegmentation:
        stream = self._queue.stream
        frames = device_frames(images, self._device.index, stream.handle)
        check_frame_shape(frames.shape, self.spec)
        size: Size = frames.shape[:3]  # type: ignore[assignment]
        profile = choose(self._profiles, size)
        with self._lost_device_explained():
            memory = self._results.acquire()
            try:
                self._queue.enqueue_on_device(frames, memory, profile, size)
                memory.ready.synchronize()
            except BaseException:
                synchronize_after_error(stream)
                self._results.release(memory)
                raise
        return self._results.result(memory, size, self.spec)

    def _release(self) -> None:
        for slot in self._slots.close():
            slot.free()
        with suppress(InferenceError), ExitStack() as current:
            with suppress(InferenceError):  # a lost device may have no context to be made current
                current.enter_context(self._device.current())
            self._queue.free()
            self._factory.close()
            # TensorRT requires that contexts are freed before the engine, and the engine before the runtime.
            self._engine = self._engine_runtime = None
        self._results.close()

    @contextmanager
    def _lost_device_explained(self) -> Iterator[None]:
        """Where the device is lost, the error says what to do."""
        try:
            yield
        except DeviceLost as exc:
            raise DeviceLost(
                f"{self.device} ({self._device.name}) does not respond any more, and this process cannot use "
                f"it again; start the program again ({exc})"
            ) from exc

    def _memory_mb(self) -> float | None:
        """GPU memory taken since the engine was opened, in megabytes; None where that cannot be asked."""
        try:
            free = self._device.free_bytes()
        except InferenceError:
            return None
        return round(max(self._free_before - free, 0) / 1e6, 1)


def _import(sidecar: Sidecar, path: Path) -> Any:
    """The module of the TensorRT that built an engine."""
    try:
        return import_tensorrt(sidecar.flavor)
    except MissingDependency as exc:
        raise BackendUnavailable(f"{path} was built by {sidecar.product}, and {exc}") from exc


def _open_device(path: Path, index: int, binding: str | None) -> Device:
    """The GPU that an engine is to run on."""
    try:
        return open_device(index, binding)
    except BackendUnavailable as exc:
        raise BackendUnavailable(
            f"{path} is an engine and cannot run here: {gpu_problem(index) or exc}"
        ) from exc
