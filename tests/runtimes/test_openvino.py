"""OpenVINO answers the deploy graph as ONNX Runtime does, on the CPU and nowhere else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fcn_deploy.errors import BackendUnavailable, InferenceError, ModelError
from fcn_deploy.runtimes.base import RuntimeOptions, usable_cores
from fcn_deploy.runtimes.openvino import OpenVino
from fcn_deploy.runtimes.registry import load
from fcn_deploy.spec import Architecture, ModelSpec

openvino = pytest.importorskip("openvino")
CPU = RuntimeOptions(device="cpu", threads=1)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 64), st.integers(1, 80))


@pytest.fixture(scope="module")
def runtime(tiny: Path):
    with OpenVino.open(tiny, CPU) as opened:
        yield opened


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_frames_of_varying_size_in_one_request(runtime, build, shape: tuple[int, ...], seed: int) -> None:
    frames = build.frames(*shape, seed=seed)
    answer = runtime.infer(frames)
    assert answer.labels.dtype == np.uint8
    np.testing.assert_array_equal(answer.labels, build.labels(frames))


@pytest.fixture(scope="module")
def network(traced_once, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A real network of a few channels with every output, in a precision."""
    pytest.importorskip("torch")
    from fcn_deploy.export.onnx import export_onnx
    from fcn_deploy.model.checkpoints.random import random_model

    folder = tmp_path_factory.mktemp("network")

    def export(precision: str) -> Path:
        path = folder / f"{precision}.onnx"
        if not path.exists():
            model, _ = random_model(5, "fcn8s-lite", width=2, fc_channels=8, seed=3)
            spec = ModelSpec(
                classes=tuple("abcde"),
                architecture=Architecture("fcn8s-lite", {"width": 2, "fc_channels": 8}),
                max_height=64,
                max_width=80,
                outputs=("labels", "confidence", "logits"),
            )
            with traced_once():
                export_onnx(model, spec, path, precision=precision)
        return path

    return export


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def both(request: pytest.FixtureRequest, network: Callable[[str], Path]):
    """The same file in OpenVINO and in ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    path = network(request.param)
    with load(path, "openvino", threads=1) as ours, load(path, "onnxruntime", "cpu", threads=1) as theirs:
        yield ours, theirs


@settings(max_examples=30)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_it_answers_as_onnx_runtime_does(both, build, shape: tuple[int, ...], seed: int) -> None:
    ours, theirs = both
    frames = build.frames(*shape, seed=seed)
    found, expected = ours.infer(frames), theirs.infer(frames)
    assert ours.precision == theirs.precision
    assert found.logits.dtype == found.confidence.dtype == np.float32
    # An fp16 file is computed in fp32 here, and rounded after each layer there.
    spread = float(np.ptp(expected.logits))
    margin = spread * (1e-5 if ours.precision == "fp32" else 2e-2)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=margin)
    np.testing.assert_allclose(found.confidence, expected.confidence, rtol=0, atol=max(margin, 1e-5))
    best, second = np.sort(expected.logits, axis=1)[:, :-3:-1].swapaxes(0, 1)
    clear = best - second > 2 * margin
    np.testing.assert_array_equal(found.labels[clear], expected.labels[clear])


def test_an_answer_outlives_the_next_frame_and_its_own(tiny_outputs: Path, build) -> None:
    first, second = build.frames(1, 9, 9, seed=1), build.frames(1, 9, 9, seed=2)
    with OpenVino.open(tiny_outputs, CPU) as runtime:
        kept = runtime.infer(first)
        first_before = first.copy()
        runtime.infer(second)
    np.testing.assert_array_equal(first, first_before)
    np.testing.assert_array_equal(kept.labels, build.labels(first))
    np.testing.assert_array_equal(kept.logits, build.logits(first))
    for answer in (kept.labels, kept.confidence, kept.logits):
        assert answer.flags.owndata and answer.flags.writeable


def test_a_frame_that_may_only_be_read(runtime, build) -> None:
    frames = build.frames(1, 4, 4)
    frames.flags.writeable = False
    np.testing.assert_array_equal(runtime.infer(frames).labels, build.labels(frames))


def test_confidence_and_logits_come_where_they_were_exported(tiny_outputs: Path, build) -> None:
    frames = build.frames(2, 7, 5)
    with OpenVino.open(tiny_outputs, CPU) as runtime:
        answer = runtime.infer(frames)
    np.testing.assert_allclose(answer.logits, build.logits(frames), rtol=1e-6)
    assert answer.confidence is not None and answer.confidence.shape == (2, 7, 5)
    assert ((answer.confidence > 0.2) & (answer.confidence <= 1)).all()


def test_it_says_how_it_runs(tiny: Path) -> None:
    with load(tiny, backend="openvino", threads=1) as segmenter:
        assert (segmenter.backend, segmenter.device) == ("openvino", "cpu")
        assert segmenter.details() == {
            "openvino": openvino.__version__.partition("-")[0],
            "processor": openvino.Core().get_property("CPU", "FULL_DEVICE_NAME").strip(),
            "threads": 1,
            "floats": "f32",
        }


def test_threads_are_those_asked_for_or_the_cores_of_this_process(tiny: Path) -> None:
    for threads in (1, 2):
        with load(tiny, backend="openvino", threads=threads) as segmenter:
            assert segmenter.details()["threads"] == threads
    with load(tiny, backend="openvino") as segmenter:
        assert segmenter.details()["threads"] == usable_cores()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")
@pytest.mark.skipif(usable_cores() < 2, reason="one core is all there is")
def test_two_models_of_one_thread_each_are_not_tied_to_the_same_core(
    network: Callable[[str], Path], build
) -> None:
    """A pinned thread is seen on one core while it computes."""
    path, frames, done = network("fp32"), build.frames(3, 64, 80), threading.Event()
    allowed, caller = os.sched_getaffinity(0), threading.get_native_id()
    seen: list[set[int]] = []

    def watch() -> None:
        while not done.is_set():
            seen.append(os.sched_getaffinity(caller))
            time.sleep(0.001)

    with OpenVino.open(path, CPU) as runtime:
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(5):
            runtime.infer(frames)
        done.set()
        watcher.join()
    assert len(seen) > 2
    assert all(cores == allowed for cores in seen)


def test_it_computes_in_fp32_where_the_cpu_would_rather_not(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bf16 units are needed to see what is asked for."""
    asked: list[dict[str, Any]] = []
    real = openvino.Core.compile_model

    def note(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        asked.append({"device": device, **config})
        return real(core, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", note)
    load(tiny, backend="openvino", threads=1).close()
    (settings,) = asked
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert settings["PERFORMANCE_HINT"] == "LATENCY"
    assert settings["device"] == "CPU"


@pytest.mark.parametrize("name", ["UPPER.ONNX", "a name with spaces.onnx", "straße 道路.onnx", "it's.onnx"])
def test_a_file_of_any_name(tmp_path: Path, build, name: str) -> None:
    frames = build.frames(1, 5, 7)
    with load(build.onnx_file(tmp_path / name), "openvino", threads=1) as segmenter:
        np.testing.assert_array_equal(segmenter.infer(frames).labels, build.labels(frames))


def test_weights_beside_the_model_are_read_and_weights_elsewhere_are_not(tmp_path: Path, build) -> None:
    (tmp_path / "model").mkdir()
    frames, path = build.frames(1, 5, 5), tmp_path / "model" / "net.onnx"
    (tmp_path / "model" / "net.data").write_bytes(build.external(path, "net.data"))
    with OpenVino.open(path, CPU) as runtime:
        np.testing.assert_array_equal(runtime.infer(frames).labels, build.labels(frames))
    (tmp_path / "net.data").write_bytes(build.external(path, "../net.data"))
    with pytest.raises(ModelError, match="outside its own folder"):
        OpenVino.open(path, CPU)


def test_another_device_is_refused_unless_the_cpu_may_stand_in(tiny: Path) -> None:
    with pytest.raises(BackendUnavailable, match="runs on the CPU only, not on cuda"):
        load(tiny, backend="openvino", device="cuda")
    with load(tiny, backend="openvino", device="cuda", allow_fallback=True) as segmenter:
        assert segmenter.device == "cpu"


def test_onnxruntime_stays_the_default(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    with load(tiny, device="cpu") as segmenter:
        assert segmenter.backend == "onnxruntime"


@pytest.mark.parametrize("kept", [1, 100, -1])
def test_a_truncated_file(tiny: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(tiny.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.onnx is not a complete ONNX file"):
        load(path, "openvino")


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_a_foreign_onnx_file_says_what_to_do(tmp_path: Path, build) -> None:
    with pytest.raises(ModelError, match=r"carries no description .* make it with: fcn-deploy export"):
        load(write(tmp_path / "foreign.onnx", build.graph()), "openvino")


def test_a_graph_that_it_refuses_is_named(build, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build.describe(build.graph())
    model.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"OpenVINO .* refuses .*odd\.onnx: .*Conversion is failed"):
        OpenVino.open(write(tmp_path / "odd.onnx", model), CPU)
    assert capfd.readouterr() == ("", ""), "what is in the exception was printed as well"


def picture(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"


def channels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].ClearField("dim_value")


def float_labels(model: onnx.ModelProto) -> None:
    model.graph.node[4].attribute[0].i = TensorProto.FLOAT
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [1]))


def another_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("float", TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (picture, "expected input image uint8 of rank 4, found picture uint8 of rank 4"),
        (channels, "takes frames of .* channels where 3 are expected"),
        (float_labels, "expected output labels uint8 of rank 3, found labels float32 of rank 3"),
        (another_input, "expected input image .*, found image .*, threshold"),
        (another_output, "expected output labels .*, found float"),
    ],
)
def test_a_graph_that_breaks_the_contract(
    tmp_path: Path, build, change: Callable[[onnx.ModelProto], None], told: str
) -> None:
    model = build.describe(build.graph())
    change(model)
    with pytest.raises(ModelError, match=rf"odd\.onnx .*{told}"):
        OpenVino.open(write(tmp_path / "odd.onnx", model), CPU)


def test_a_description_that_promises_more_than_the_graph_has(tmp_path: Path, build) -> None:
    model = build.describe(build.graph(), build.spec.replace(outputs=("labels", "logits")))
    with pytest.raises(ModelError, match=r"expected output labels .*, logits .*, found labels"):
        OpenVino.open(write(tmp_path / "less.onnx", model), CPU)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_while_it_runs_is_one_error(
    tmp_path: Path, build, capfd: pytest.CaptureFixture[str], threads: int
) -> None:
    """On one thread OpenVINO 2026.4 raises nothing and leaves the last frame's answer."""
    model = build.describe(build.graph())
    model.graph.node[2].input[0] = "shifted"
    for at, node in enumerate(
        (
            helper.make_node("MaxPool", ["nchw"], ["peaks"], kernel_shape=[3, 3]),
            helper.make_node("ReduceMax", ["peaks"], ["peak"]),
            helper.make_node("Add", ["nchw", "peak"], ["shifted"]),
        )
    ):
        model.graph.node.insert(2 + at, node)
    path = write(tmp_path / "pooled.onnx", model)
    with OpenVino.open(path, RuntimeOptions(threads=threads)) as runtime:
        frames = build.frames(1, 4, 5)
        before = runtime.infer(frames).labels
        for _ in range(2):
            with pytest.raises(InferenceError, match=r"openvino (failed on|answered) .*\(1, 2, 2, 3\)"):
                runtime.infer(build.frames(1, 2, 2))
        if threads == 1:  # on more it raises, and this request is lost
            np.testing.assert_array_equal(runtime.infer(frames).labels, before)
    assert capfd.readouterr() == ("", "")


def test_closing_twice_is_harmless_and_use_after_it_is_not(tiny: Path, build) -> None:
    runtime = OpenVino.open(tiny, CPU)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.infer(build.frames(1, 4, 4))
