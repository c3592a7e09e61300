"""The fake checks frames as a real runtime does; bare sessions state what they compute with."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from fcn_deploy.errors import InferenceError, SourceError, UsageError
from fcn_deploy.runtimes.base import RuntimeOptions
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.spec import Architecture, ModelSpec
from fcn_deploy.testing import FakeRuntime, onnxruntime_session, openvino_model

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)


def test_a_rule_sees_the_frames_and_gives_the_labels() -> None:
    with FakeRuntime(lambda frames: frames[..., 0] % 11) as runtime:
        np.testing.assert_array_equal(runtime.infer(FRAMES).labels, FRAMES[..., 0] % 11)


def test_one_label_for_every_pixel() -> None:
    labels = FakeRuntime(4).infer(FRAMES).labels
    assert labels.dtype == np.uint8
    assert labels.shape == (2, 5, 6)
    assert (labels == 4).all()


def test_it_pretends_to_be_camvid_or_what_it_is_told() -> None:
    assert FakeRuntime(0).spec.classes[8] == "car"
    spec = ModelSpec(classes=("no", "yes"), architecture=Architecture("fcn8s"), max_height=4)
    with pytest.raises(SourceError, match="limit of 4x"):
        FakeRuntime(1, spec).infer(FRAMES)


def test_a_delay_is_kept() -> None:
    start = time.perf_counter()
    FakeRuntime(0, delay=0.05).infer(FRAMES)
    assert time.perf_counter() - start >= 0.05


def test_a_rule_that_fails_is_a_backend_that_fails() -> None:
    def fail(frames: np.ndarray) -> np.ndarray:
        raise RuntimeError("the GPU fell off the bus")

    with Segmenter(FakeRuntime(fail)) as segmenter, pytest.raises(InferenceError, match="fell off the bus"):
        segmenter.infer(FRAMES)


def test_wrong_use_is_told() -> None:
    with pytest.raises(UsageError, match="from 0 to 10, not 11"):
        FakeRuntime(11)
    with pytest.raises(UsageError, match=r"0 seconds or more, not -1"):
        FakeRuntime(0, delay=-1)
    with pytest.raises(UsageError, match=r"FakeRuntime\(rule\)"):
        FakeRuntime.open(Path("fake"), RuntimeOptions())
    assert FakeRuntime.unavailable() is None


@pytest.fixture
def doubled() -> onnx.ModelProto:
    """A graph that adds ``x`` to itself."""
    return onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> double (float[n] x) => (float[n] y) { y = Add (x, x) }'
    )


def test_a_session_states_its_threads(doubled: onnx.ModelProto, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx.save(doubled, tmp_path / "double.onnx")
    for model in (doubled, tmp_path / "double.onnx", str(tmp_path / "double.onnx")):
        session = onnxruntime_session(model, threads=2, enable_mem_pattern=False)
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.enable_mem_pattern) == (2, False)
        assert session.get_providers() == ["CPUExecutionProvider"]
        assert session.run(None, {"x": np.array([1.5], np.float32)})[0] == [3.0]


def test_openvino_computes_in_float32_on_every_cpu(doubled: onnx.ModelProto, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    onnx.save(doubled, tmp_path / "double.onnx")
    for model in (doubled, tmp_path / "double.onnx", str(tmp_path / "double.onnx")):
        compiled = openvino_model(model, threads=1)
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        # 1 + 2**-12 is no bf16 number.
        assert compiled([np.array([1 + 2**-12], np.float32)])[0] == [2 + 2**-11]
