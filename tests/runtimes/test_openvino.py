"""OpenVINO answers the deploy graph as ONNX Runtime does, on the CPU and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.errors import BackendUnavailable, InferenceError, ModelError
from fcn_deploy.runtimes.base import RuntimeOptions
from fcn_deploy.runtimes.openvino import OpenVino
from fcn_deploy.runtimes.registry import load

pytest.importorskip("openvino")
CPU = RuntimeOptions(device="cpu", threads=1)


@pytest.fixture(scope="module")
def runtime(tiny: Path):
    with OpenVino.open(tiny, CPU) as opened:
        yield opened


@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 64), st.integers(1, 80)), seed=st.integers(0, 99))
def test_frames_of_varying_size_in_one_request(runtime, build, shape: tuple[int, ...], seed: int) -> None:
    frames = build.frames(*shape, seed=seed)
    answer = runtime.infer(frames)
    assert answer.labels.dtype == np.uint8
    np.testing.assert_array_equal(answer.labels, build.labels(frames))


def test_an_answer_outlives_the_next_frame(runtime, build) -> None:
    first, second = build.frames(1, 9, 9, seed=1), build.frames(1, 9, 9, seed=2)
    kept = runtime.infer(first).labels
    runtime.infer(second)
    np.testing.assert_array_equal(kept, build.labels(first))


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
        assert segmenter.details().keys() == {"openvino", "threads", "floats"}
        assert segmenter.details()["threads"] == 1


def test_another_device_is_refused_unless_the_cpu_may_stand_in(tiny: Path) -> None:
    with pytest.raises(BackendUnavailable, match="runs on the CPU only, not on cuda"):
        load(tiny, backend="openvino", device="cuda")
    with load(tiny, backend="openvino", device="cuda", allow_fallback=True) as segmenter:
        assert segmenter.device == "cpu"


def test_onnxruntime_stays_the_default(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    with load(tiny, device="cpu") as segmenter:
        assert segmenter.backend == "onnxruntime"


def test_a_graph_that_it_refuses_is_named(build, tmp_path: Path) -> None:
    model = build.describe(build.graph())
    model.graph.node[2].op_type = "NoSuchOperator"
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"OpenVINO .* refuses .*odd\.onnx: .*Conversion is failed"):
        OpenVino.open(path, CPU)


@pytest.mark.parametrize("change", ["input", "output"])
def test_a_graph_that_is_not_the_deploy_graph_is_refused(build, tmp_path: Path, change: str) -> None:
    spec = build.spec.replace(outputs=("labels", "confidence")) if change == "output" else build.spec
    model = build.describe(build.graph(image="picture" if change == "input" else "image"), spec)
    path = tmp_path / "other.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="is not the deploy graph that its description promises"):
        OpenVino.open(path, CPU)


def test_closing_twice_is_harmless_and_use_after_it_is_not(tiny: Path, build) -> None:
    runtime = OpenVino.open(tiny, CPU)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.infer(build.frames(1, 4, 4))
