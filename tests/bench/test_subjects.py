"""Stages add up, and typical user code prepares frames as the reference does."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.bench.subjects import ArtefactSubject, TypicalSubject, open_bench_subject
from fcn_deploy.errors import FcnDeployError, UsageError
from fcn_deploy.spec import CAFFE_MEAN_BGR, Architecture, ModelSpec
from fcn_deploy.testing import FakeRuntime


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float NCHW in, the same out: three classes, the largest channel wins."""
    helper, types = onnx.helper, onnx.TensorProto
    axes = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["logits"])],
        "identity",
        [helper.make_tensor_value_info("input", types.FLOAT, axes)],
        [helper.make_tensor_value_info("logits", types.FLOAT, axes)],
    )
    path = tmp_path_factory.mktemp("float") / "identity.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def typical(path: Path, spec: ModelSpec) -> TypicalSubject:
    found = open_bench_subject(kind="typical", path=str(path), spec=spec.to_json(), threads=1, spinning=False)
    assert isinstance(found, TypicalSubject)
    return found


def test_the_delay_of_a_runtime_is_inference() -> None:
    subject = ArtefactSubject(FakeRuntime(rule=3, delay=0.05))
    began = time.perf_counter()
    (before, infer, after), labels = subject.call(np.zeros((2, 4, 5, 3), np.uint8))
    whole = 1e3 * (time.perf_counter() - began)
    assert infer >= 50
    assert before >= 0 and after >= 0
    assert before + infer + after <= whole
    assert labels.shape == (2, 4, 5) and (labels == 3).all()
    assert labels.flags.c_contiguous


def test_an_artefact_says_how_it_runs(make_onnx) -> None:
    fields = {"backend": "onnxruntime", "threads": 1, "spinning": False}
    subject = open_bench_subject(kind="artefact", path=str(make_onnx(color_order="rgb")), **fields)
    facts = subject.facts()
    assert (facts["device"], facts["precision"]) == ("cpu", "fp32")
    assert facts["details"]["threads"] == 1 and facts["details"]["spinning"] is False
    assert subject.color_order == "rgb"
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    assert (subject.call(frames)[1] == frames.argmax(-1)).all()


def test_a_backend_that_does_not_read_the_file_says_so(make_onnx) -> None:
    with pytest.raises(UsageError, match="pytorch"):
        open_bench_subject(
            kind="artefact", path=str(make_onnx()), backend="pytorch", threads=1, spinning=False
        )


@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["bgr", "rgb"]),
    st.sampled_from([(1.0, 1.0, 1.0), (57.0, 58.0, 60.0)]),
)
def test_typical_code_normalises_as_the_reference_does(
    float_model: Path, n: int, height: int, width: int, order: str, std: tuple[float, float, float]
) -> None:
    pytest.importorskip("cv2")
    spec = ModelSpec(classes=("a", "b", "c"), architecture=Architecture("fcn8s"), color_order=order, std=std)
    subject = typical(float_model, spec)
    frames = np.random.default_rng(n * height * width).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    bgr = frames if order == "bgr" else frames[..., ::-1]
    wanted = ((bgr - np.array(CAFFE_MEAN_BGR)) / np.array(std)).transpose(0, 3, 1, 2)
    found = subject.normalise(frames)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    times, labels = subject.call(frames)
    assert len(times) == 3 and min(times) >= 0
    assert labels.dtype == np.uint8 and labels.shape == (n, height, width)
    assert (labels == found.argmax(1)).all()


def test_a_missing_opencv_is_named(float_model: Path, monkeypatch: pytest.MonkeyPatch, spec) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(FcnDeployError, match="opencv"):
        typical(float_model, spec)
