"""The TensorRT runtime on the simulated driver, with a simulated TensorRT."""

from __future__ import annotations

import gc
import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt
from device_frames import DlPack, OnDevice, fetched
from engines import PROFILES, make_engine

from fcn_deploy.errors import (
    BackendUnavailable,
    EngineError,
    FcnDeployError,
    InferenceError,
    MissingDependency,
    SourceError,
    UsageError,
)
from fcn_deploy.runtimes.registry import load
from fcn_deploy.runtimes.tensorrt import loading, queue
from fcn_deploy.runtimes.tensorrt.runtime import TensorRT
from fcn_deploy.runtimes.tensorrt.sidecar import TENSORRT_RTX, sidecar_path

SIDECAR_0_1 = Path(__file__).parents[2] / "runtimes" / "tensorrt" / "frozen" / "sidecar-0.1.json"
"""Of an engine of the same ONNX file that the simulated engines are made of."""

Make = Callable[..., np.ndarray]
SIZES = ((1, 24, 32), (2, 40, 48), (3, 64, 80), (1, 1, 1), (1, 7, 33), (4, 32, 48))


def same(ours: Any, theirs: Any) -> None:
    """Labels equal; the numbers come from the same library and are equal too."""
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    for name in ("confidence", "logits"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


# --- results ---------------------------------------


def test_every_output_equals_onnx_runtimes_at_every_size(
    engine: Path, binding: str, frames: Make, expected: Any
) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        assert (segmenter.backend, segmenter.device) == ("tensorrt", "cuda:0")
        for seed in range(4):
            for size in SIZES:
                images = frames(*size, seed=seed)
                same(segmenter.infer(images), expected(images))


def test_a_stream_yields_each_frame_with_its_own_labels(
    engine: Path, binding: str, frames: Make, expected: Any
) -> None:
    clip = [frames(*SIZES[n % 3], seed=n) for n in range(24)]
    with load(engine, cuda_binding=binding) as segmenter:
        answers = list(segmenter.stream(clip))
    for given, (images, answer) in zip(clip, answers, strict=True):
        assert images is given
        same(answer, expected(images))


def test_two_submitted_frames_are_in_flight_at_once(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any
) -> None:
    sim.delay(3000)
    first, second = frames(1, 24, 32, seed=1), frames(1, 40, 48, seed=2)
    with load(engine, cuda_binding=binding) as segmenter:
        segmenter.submit(first)
        segmenter.submit(second)
        with pytest.raises(UsageError, match="2 frames are in flight"):
            segmenter.submit(first)
        same(segmenter.result(), expected(first))
        same(segmenter.result(), expected(second))
        assert sim.count("streams") == 3  # one for computing, one for each slot's copies


def test_one_thread_that_waits_for_each_result_needs_one_slot(
    engine: Path, binding: str, frames: Make, sim: Any
) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        for seed in range(5):
            segmenter.infer(frames(1, 24, 32, seed=seed))
        assert sim.count("streams") == 2


def test_any_number_of_threads_may_infer(engine: Path, binding: str, frames: Make, expected: Any) -> None:
    images = [frames(*SIZES[n % len(SIZES)], seed=n) for n in range(40)]
    with load(engine, cuda_binding=binding) as segmenter, ThreadPoolExecutor(8) as pool:
        for given, answer in zip(images, pool.map(segmenter.infer, images), strict=True):
            same(answer, expected(given))


def test_a_result_does_not_change_later(engine: Path, binding: str, frames: Make, expected: Any) -> None:
    images = frames(1, 24, 32, seed=1)
    with load(engine, cuda_binding=binding) as segmenter:
        answer = segmenter.infer(images)
        segmenter.infer(frames(1, 24, 32, seed=2))
    same(answer, expected(images))


# --- opening ---------------------------------------


def test_opening_reads_each_file_once_and_probes_the_gpu_once(
    engine: Path, binding: str, sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(path: Path, *arguments: Any, **options: Any) -> Any:
            reads.append(path.name)
            return read(path, *arguments, **options)

        return reading

    monkeypatch.setattr(Path, "read_text", counted(Path.read_text))
    monkeypatch.setattr(Path, "read_bytes", counted(Path.read_bytes))
    calls = ("cuDeviceGetCount", "cuDevicePrimaryCtxRetain")
    before = [sim.count(call) for call in calls]
    with load(engine, cuda_binding=binding):
        pass
    assert sorted(name for name in reads if name.startswith(engine.name)) == [
        "tiny.engine",
        "tiny.engine.json",
    ]
    assert [sim.count(call) - count for call, count in zip(calls, before, strict=True)] == [1, 1]


def test_an_engine_with_a_sidecar_of_version_0_1_opens(
    tmp_path: Path, onnx: Path, binding: str, frames: Make, expected: Any
) -> None:
    path = make_engine(tmp_path / "old.engine", onnx, flavor=TENSORRT_RTX)
    data = path.read_bytes()
    frozen = json.loads(SIDECAR_0_1.read_text())
    frozen.update(engine_bytes=len(data), engine_sha256=hashlib.sha256(data).hexdigest())
    sidecar_path(path).write_text(json.dumps(frozen))
    with load(path, cuda_binding=binding) as segmenter:
        same(segmenter.infer(frames(1, 24, 32)), expected(frames(1, 24, 32)))


# --- profiles ---------------------------------------


@pytest.mark.parametrize(
    ("size", "index"),
    [((1, 24, 32), 0), ((1, 40, 48), 1), ((1, 33, 48), 1), ((2, 24, 32), 0), ((4, 64, 80), 1)],
)
def test_the_profile_with_the_nearest_opt_is_chosen(
    engine: Path, binding: str, frames: Make, size: tuple[int, int, int], index: int
) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        segmenter.infer(frames(*size))
        details = segmenter.details()
    assert details["profile"] == details["profiles"][index]


def test_a_frame_outside_every_profile_is_refused_with_all_of_them(
    engine: Path, binding: str, frames: Make, expected: Any
) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        with pytest.raises(SourceError) as caught:
            segmenter.infer(frames(3, 24, 32))
        assert str(caught.value) == (
            "a batch of 3 frames of 24x32 fits no optimization profile of this engine (batch x height x "
            "width, min:opt:max): 1x1x1:1x24x32:2x40x48, 1x32x48:1x48x64:4x64x80; scale the frames, or build "
            "the engine with another --profile"
        )
        images = frames(1, 24, 32)
        same(segmenter.infer(images), expected(images))


# --- CUDA graphs ---------------------------------------


def test_the_second_frame_of_a_size_is_captured_and_later_ones_replayed(
    engine: Path, binding: str, frames: Make, sim: Any
) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        if not segmenter.details()["cuda_graph"].startswith("yes"):
            pytest.skip("this binding captures no graphs")
        before = sim.count("graph_launches")
        for seed in range(6):
            segmenter.infer(frames(1, 24, 32, seed=seed))
        assert [kind for kind, _ in tensorrt.launches] == ["run", "run", "captured"]
        assert sim.count("graph_launches") - before == 4


def test_graphs_are_few(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "GRAPHS", 3)
    with load(engine, cuda_binding=binding) as segmenter:
        for seed in range(30):
            images = frames(1, 1 + seed // 3, 5, seed=seed)
            same(segmenter.infer(images), expected(images))
            assert sim.count("graphs") <= 3


@pytest.mark.parametrize("who", ["driver", "tensorrt"])
def test_an_engine_that_cannot_be_captured_runs_without_graphs_and_says_so(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any, who: str
) -> None:
    if who == "driver":
        sim.fault("cuGraphInstantiateWithFlags", 1, 801)
    else:
        tensorrt.faults["capture"] = "operation not permitted when stream is capturing"
    with load(engine, cuda_binding=binding) as segmenter:
        for seed in range(4):
            images = frames(1, 24, 32, seed=seed)
            same(segmenter.infer(images), expected(images))
        assert segmenter.details()["cuda_graph"].startswith("no: ")


# --- frames and results on the device ---------------------------------------


@pytest.mark.parametrize("size", [(24, 32), (1, 24, 32), (3, 64, 80)])
def test_frames_on_the_device_are_read_there_and_results_stay_there(
    engine: Path, binding: str, frames: Make, expected: Any, size: tuple[int, ...]
) -> None:
    images = frames(*size)
    given = OnDevice(images, binding)
    with load(engine, cuda_binding=binding) as segmenter:
        answer = segmenter.infer_device(given)
        wanted = expected(images.reshape(-1, *images.shape[-3:]))
        for name in ("labels", "confidence", "logits"):
            np.testing.assert_array_equal(fetched(getattr(answer, name), binding), getattr(wanted, name))
        del answer
    given.device.close()


def test_frames_still_being_made_are_waited_for(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any
) -> None:
    images = frames(1, 24, 32, seed=5)
    with load(engine, cuda_binding=binding) as segmenter:
        segmenter.infer(images)
        sim.delay(20_000)
        given = OnDevice(images, binding, wait=False)
        answer = segmenter.infer_device(given)
        np.testing.assert_array_equal(fetched(answer.labels, binding), expected(images).labels)
        del answer
    given.device.close()


def test_memory_of_results_on_the_device_is_reused(
    engine: Path, binding: str, frames: Make, sim: Any
) -> None:
    given = OnDevice(frames(1, 24, 32), binding)
    with load(engine, cuda_binding=binding) as segmenter:
        kept = segmenter.infer_device(given).labels
        again = segmenter.infer_device(given).labels
        assert kept.__cuda_array_interface__["data"] != again.__cuda_array_interface__["data"]
        del again
        before = sim.count("allocations")
        for _ in range(5):
            segmenter.infer_device(given)
        assert sim.count("allocations") == before
    given.device.close()
    del kept


def test_a_result_on_the_device_outlives_its_segmenter(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any
) -> None:
    images = frames(1, 24, 32)
    given = OnDevice(images, binding)
    with load(engine, cuda_binding=binding) as segmenter:
        labels = segmenter.infer_device(given).labels
    given.device.close()
    np.testing.assert_array_equal(fetched(labels, binding), expected(images).labels)
    assert sim.count("live_bytes") > 0
    del labels
    gc.collect()
    assert sim.count("live_bytes") == 0


def test_frames_on_the_device_are_checked(engine: Path, binding: str, frames: Make) -> None:
    held = OnDevice(frames(1, 24, 32), binding)
    address = held.memory.address
    with load(engine, cuda_binding=binding) as segmenter:
        with pytest.raises(SourceError, match="must lie on cuda:0"):
            segmenter.infer_device(frames(1, 24, 32))  # numpy speaks DLPack too
        for entries, told in (
            ({"typestr": "<f4"}, "must be uint8, not <f4"),
            ({"shape": (1, 24, 32)}, r"found shape \(1, 24, 32\)"),
            ({"shape": (1, 3, 24, 32)}, "channels come last"),
            ({"strides": (4608, 192, 6, 1)}, "must be contiguous"),
            ({"mask": object()}, "with a mask"),
            ({"data": (address + 3, False)}, "must begin at a multiple of 256 bytes"),
            ({"shape": (1, 65, 32, 3)}, "larger than this model's limit"),
            ({"shape": (3, 24, 32, 3)}, "fits no optimization profile"),
        ):
            with pytest.raises(SourceError, match=told):
                segmenter.infer_device(held.changed(**entries))
        with pytest.raises(
            SourceError, match="need __cuda_array_interface__ or __dlpack__, which int does not have"
        ):
            segmenter.infer_device(3)
    held.device.close()


def test_dlpack_is_read_too(engine: Path, binding: str, frames: Make, expected: Any) -> None:
    images = frames(1, 24, 32)
    given = OnDevice(images, binding)
    with load(engine, cuda_binding=binding) as segmenter:
        capsule = DlPack(given, images.shape)
        answer = segmenter.infer_device(capsule)
        np.testing.assert_array_equal(fetched(answer.labels, binding), expected(images).labels)
        assert capsule.streams[0] > 2  # the producer was told which stream will read
        del answer
        with pytest.raises(SourceError, match=r"must lie on cuda:0, .* DLPack's device \(2, 1\)"):
            segmenter.infer_device(DlPack(given, images.shape, device=(2, 1)))
        capsule.tensor.bits = 16
        with pytest.raises(SourceError, match="must be uint8"):
            segmenter.infer_device(capsule)
    given.device.close()


# --- closing ---------------------------------------


def test_closing_twice_and_using_it_afterwards(engine: Path, binding: str, frames: Make) -> None:
    segmenter = load(engine, cuda_binding=binding)
    segmenter.infer(frames(1, 24, 32))
    segmenter.close()
    segmenter.close()
    for use in (segmenter.infer, segmenter.infer_device, segmenter.submit):
        with pytest.raises(InferenceError, match="is closed; load the artefact again"):
            use(frames(1, 24, 32))
    assert segmenter.details()["gpu_memory_mb"] is None


def test_closing_while_frames_are_in_flight(engine: Path, binding: str, frames: Make, sim: Any) -> None:
    sim.delay(5000)
    runtime = TensorRT.open(engine, cuda_binding=binding)
    before = sim.count("cuMemcpyHtoDAsync_v2")
    told = []

    def ask() -> None:
        try:
            told.append(runtime.infer(frames(1, 24, 32)).labels.shape)
        except InferenceError as exc:
            told.append(str(exc))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    while sim.count("cuMemcpyHtoDAsync_v2") == before:
        threading.Event().wait(0.001)
    runtime.close()
    for thread in threads:
        thread.join(10)
    assert len(told) == 5 and (1, 24, 32) in told
    assert {type(one) for one in told} <= {tuple, str}
    assert all("is closed" in one for one in told if isinstance(one, str))


def test_a_segmenter_closed_with_frames_in_flight(engine: Path, binding: str, frames: Make, sim: Any) -> None:
    sim.delay(3000)
    segmenter = load(engine, cuda_binding=binding)
    segmenter.submit(frames(1, 24, 32))
    segmenter.submit(frames(1, 24, 32))
    segmenter.close()


# --- errors ---------------------------------------


def test_what_tensorrt_logged_is_in_the_error(
    engine: Path, binding: str, frames: Make, expected: Any
) -> None:
    images = frames(1, 24, 32)
    given = OnDevice(images, binding)
    with load(engine, cuda_binding=binding) as segmenter:
        segmenter.infer(images)
        tensorrt.faults["execute"] = "Error Code 9: no tactic left"
        for ask in (lambda: segmenter.infer(images), lambda: segmenter.infer_device(given)):
            with pytest.raises(
                InferenceError, match="could not run the engine: Error Code 9: no tactic left"
            ):
                ask()
        tensorrt.faults.clear()
        same(segmenter.infer(images), expected(images))
        segmenter.infer_device(given)
    given.device.close()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("deserialize", "TensorRT 10.3.0 refuses .*tiny.engine: Error Code 4: planted; build it again"),
        ("context", "TensorRT could not make an execution context: Error Code 4: planted"),
    ],
)
def test_an_engine_that_tensorrt_refuses(
    engine: Path, binding: str, frames: Make, fault: str, told: str
) -> None:
    tensorrt.faults[fault] = "Error Code 4: planted"
    with pytest.raises(EngineError, match=told), load(engine, cuda_binding=binding) as segmenter:
        segmenter.infer(frames(1, 24, 32))


FAULTS = (
    *("cuMemAlloc_v2", "cuMemHostAlloc", "cuMemAllocHost_v2", "cuStreamCreate", "cuEventCreate"),
    *("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuEventRecord", "cuStreamWaitEvent"),
    *("cuEventSynchronize", "cuEventElapsedTime", "cuLaunchHostFunc", "cuGraphLaunch", "cuMemGetInfo_v2"),
    *("cuStreamSynchronize", "cuDevicePrimaryCtxRetain"),
)


@pytest.mark.parametrize("call", FAULTS)
@pytest.mark.parametrize("nth", [1, 2, 3, 7])
def test_whichever_driver_call_fails_is_reported_and_nothing_leaks(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any, call: str, nth: int
) -> None:
    sim.fault(call, nth, 2)
    told, before = "", sim.count(call)
    try:
        with load(engine, cuda_binding=binding) as segmenter:
            for seed in range(4):
                images = frames(1, 24, 32, seed=seed)
                try:
                    same(segmenter.infer(images), expected(images))
                except FcnDeployError as exc:
                    told = str(exc)
                    # One failure spoils one frame.
                    same(segmenter.infer(images), expected(images))
    except FcnDeployError as exc:
        told = str(exc)
    came = sim.count(call) - before >= nth
    # Without a graph, or a context for one, the engine goes on; pycuda asks for memory twice.
    excused = (call, nth) in (("cuLaunchHostFunc", 3), ("cuStreamSynchronize", 2))
    excused |= call == "cuMemAlloc_v2" and binding == "pycuda"
    assert bool(told) == came or excused, told
    assert not told or "out of memory" in told.lower() or "TensorRT could not run the engine" in told, told


def test_too_little_memory_says_how_much_was_wanted(
    engine: Path, binding: str, frames: Make, sim: Any
) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        before = sim.count("live_bytes")
        sim.memory(before + 100_000)
        for _ in range(3):
            with pytest.raises(
                InferenceError, match=r"could not allocate 0\.\d MB of GPU memory \(0.* are free\)"
            ):
                segmenter.infer(frames(1, 24, 32))
            assert sim.count("live_bytes") == before
        sim.memory(1 << 32)
        segmenter.infer(frames(1, 24, 32))


def test_a_cpu_another_gpu_and_another_binding(engine: Path, binding: str) -> None:
    with pytest.raises(BackendUnavailable, match="runs on an NVIDIA GPU only"):
        load(engine, device="cpu")
    with pytest.raises(BackendUnavailable, match="there is no cuda:3"):
        load(engine, device="cuda:3")
    with pytest.raises(UsageError, match="unknown CUDA binding 'vulkan'; choose one of cuda-python, pycuda"):
        load(engine, cuda_binding="vulkan")


def test_the_largest_batch_of_all_profiles_is_reported(engine: Path, binding: str) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        assert segmenter.max_batch == 2  # of two profiles, one of which takes four


def test_an_engine_of_another_graph_is_refused(tmp_path: Path, onnx: Path, binding: str) -> None:
    from fcn_deploy.runtimes.artefact import read_spec

    path = make_engine(tmp_path / "x.engine", onnx, spec=read_spec(onnx).replace(outputs=("labels",)))
    with pytest.raises(EngineError, match="is not the deploy graph that its description promises"):
        load(path, cuda_binding=binding)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"version": "10.2.0"}, "was built by TensorRT 10.2.0, and 10.3.0 is installed here"),
        ({"compute_capability": "8.7"}, "was built for compute capability 8.7, and this GPU has 8.6"),
        ({"engine_sha256": "0" * 64}, "is not the engine that tiny.engine.json describes"),
        ({"flavor": TENSORRT_RTX, "version": "1.2.0"}, "was built by TensorRT-RTX 1.2.0, and 1.7"),
    ],
)
def test_an_engine_for_something_else_is_refused_before_it_is_read(
    tmp_path: Path, onnx: Path, binding: str, fields: dict[str, Any], told: str
) -> None:
    path = make_engine(tmp_path / "tiny.engine", onnx, **fields)
    tensorrt.faults["deserialize"] = "must not be reached"
    with pytest.raises(EngineError, match=told):
        load(path, cuda_binding=binding)


def test_without_its_sidecar_cut_off_or_not_the_one_expected(engine: Path, binding: str) -> None:
    with pytest.raises(EngineError, match="do not load it"):
        load(engine, cuda_binding=binding, expect_sha256="a" * 64)
    data = engine.read_bytes()
    engine.write_bytes(data[:-1])
    with pytest.raises(EngineError, match="it was cut off, or one of the two was replaced"):
        load(engine, cuda_binding=binding)
    engine.write_bytes(data)
    sidecar_path(engine).unlink()
    with pytest.raises(EngineError, match="has no sidecar beside it"):
        load(engine, cuda_binding=binding)


def test_a_version_compatible_engine_may_bring_its_own_runtime(
    tmp_path: Path, onnx: Path, binding: str, frames: Make, expected: Any
) -> None:
    path = make_engine(tmp_path / "x.engine", onnx, version="10.1.0", version_compatible=True)
    with load(path, cuda_binding=binding) as segmenter:
        same(segmenter.infer(frames(1, 24, 32)), expected(frames(1, 24, 32)))


def test_a_machine_without_tensorrt_says_so(
    engine: Path, binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(flavor: str = "auto") -> None:
        raise MissingDependency(f"{flavor} is not installed")

    for module in ("backend", "runtime"):
        monkeypatch.setattr(f"fcn_deploy.runtimes.tensorrt.{module}.import_tensorrt", missing)
    with pytest.raises(
        BackendUnavailable, match=r"reads tiny.engine, cannot run here: auto is not installed"
    ):
        load(engine)
    with pytest.raises(BackendUnavailable, match="was built by TensorRT, and tensorrt is not installed"):
        TensorRT.open(engine, cuda_binding=binding)


def test_a_tensorrt_that_does_not_start_says_so(
    engine: Path, binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(tensorrt, "Runtime", refused)
    with pytest.raises(EngineError, match="TensorRT could not start its runtime"):
        load(engine, cuda_binding=binding)


def test_an_engine_that_would_return_another_shape_is_not_run(
    engine: Path, binding: str, frames: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt.IExecutionContext, "get_tensor_shape", lambda self, name: (1, 99, 99))
    with (
        load(engine, cuda_binding=binding) as segmenter,
        pytest.raises(InferenceError, match=r"would return labels of shape \(1, 99, 99\)"),
    ):
        segmenter.infer(frames(1, 24, 32))


# --- TensorRT-RTX ---------------------------------------


@pytest.fixture
def rtx(tmp_path: Path, onnx: Path) -> Path:
    return make_engine(tmp_path / "rtx.engine", onnx, flavor=TENSORRT_RTX, version="1.7.1")


def test_rtx_captures_graphs_itself_and_its_compiled_kernels_are_saved(
    rtx: Path, binding: str, frames: Make, expected: Any, sim: Any
) -> None:
    cache = rtx.with_name("rtx.engine.cache")
    for content in (None, b"kernels of the simulated GPU", b"of another GPU"):
        if content is not None:
            cache.write_bytes(content)
        with load(rtx, cuda_binding=binding) as segmenter:
            for seed in range(4):
                images = frames(1, 24, 32, seed=seed)
                same(segmenter.infer(images), expected(images))
            assert segmenter.details()["cuda_graph"] == "yes, TensorRT-RTX's own"
            assert segmenter.details()["tensorrt"] == "TensorRT-RTX 1.7.1.116"
        assert cache.read_bytes() == b"kernels of the simulated GPU"
    assert sim.count("graphs") == 0


def test_rtx_in_a_folder_that_cannot_be_written_runs_all_the_same(
    rtx: Path, binding: str, frames: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("cannot write")

    monkeypatch.setattr(loading, "write_bytes", refuse)
    with load(rtx, cuda_binding=binding) as segmenter:
        segmenter.infer(frames(1, 24, 32))
    assert "compiled kernels were not saved: cannot write" in caplog.text


def test_rtx_with_a_cache_that_cannot_be_read_compiles_again(
    rtx: Path, binding: str, frames: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rtx.with_name("rtx.engine.cache").mkdir()
    with load(rtx, cuda_binding=binding) as segmenter:
        segmenter.infer(frames(1, 24, 32))
    assert "rtx.engine.cache cannot be read, so kernels are compiled again: Is a directory" in caplog.text


def test_rtx_says_what_does_not_fit(rtx: Path, binding: str, caplog: pytest.LogCaptureFixture) -> None:
    tensorrt.faults["validity"] = "OLD_CUDA_DRIVER"
    with pytest.raises(EngineError, match=r"cannot run .*rtx.engine here: old cuda driver; build it again"):
        load(rtx, cuda_binding=binding)
    tensorrt.faults.clear()
    tensorrt.faults["suboptimal"] = ""
    load(rtx, cuda_binding=binding).close()
    assert "may be slower here than it could be: unsupported cc" in caplog.text


# --- what reports state ---------------------------------------


def test_details_and_times(engine: Path, binding: str, frames: Make) -> None:
    with load(engine, cuda_binding=binding) as segmenter:
        assert segmenter._runtime.device_times() == {}
        segmenter.infer(frames(1, 24, 32))
        times, details = segmenter._runtime.device_times(), segmenter.details()
    assert list(times) == ["copy_in", "compute", "copy_out"] and min(times.values()) > 0
    assert details["tensorrt"] == "TensorRT 10.3.0"
    assert details["cuda_binding"] == binding
    assert details["gpu"] == "Simulated GPU"
    assert details["gpu_memory_mb"] > 0
    assert len(details["profiles"]) == len(PROFILES)
    json.dumps(details)


def test_tensorrt_logs_to_pythons_logging(
    engine: Path, binding: str, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.faults["deserialize"] = "Error Code 4: planted"
    with pytest.raises(EngineError):
        load(engine, cuda_binding=binding)
    assert [(r.name, r.levelname) for r in caplog.records] == [("fcn_deploy.tensorrt", "ERROR")]


# --- many frames ---------------------------------------


def test_frames_of_varying_size_allocate_nothing(
    engine: Path, binding: str, frames: Make, expected: Any, sim: Any, count: int
) -> None:
    rng = np.random.default_rng(1)
    sim.delay(0)
    with load(engine, cuda_binding=binding) as segmenter:
        for seed in range(6):  # both slots, both profiles
            segmenter.submit(frames(1, 24, 32, seed=seed))
            segmenter.submit(frames(4, 64, 80, seed=seed))
            segmenter.result(), segmenter.result()
        steady, alive = sim.count("allocations"), sim.count("live_bytes")
        for number in range(count):
            low, _, high = PROFILES[number % 2]
            size = tuple(int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
            images = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            if number % 10 == 9:
                same(segmenter.infer(images), expected(images))
            else:
                segmenter.submit(images)
                np.testing.assert_array_equal(segmenter.result().labels, expected(images).labels)
        in_steady_state = sim.count("allocations") - steady
        assert sim.count("live_bytes") == alive
    print(
        f"{binding}: {count} frames, {in_steady_state} allocations in the steady state, "
        f"{sim.count('live_bytes')} bytes at the end"
    )
    assert in_steady_state == 0
