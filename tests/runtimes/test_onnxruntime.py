"""ONNX Runtime answers the deploy graph, opens nothing else, and never takes another provider quietly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.errors import BackendUnavailable, InferenceError, ModelError, UsageError
from fcn_deploy.runtimes import onnxruntime as backend
from fcn_deploy.runtimes.onnxruntime import (
    BoundSession,
    OnnxRuntime,
    OnnxRuntimeBackend,
    OnnxRuntimeOptions,
    wanted_provider,
)
from fcn_deploy.runtimes.registry import load
from fcn_deploy.testing import onnxruntime_session

ort = pytest.importorskip("onnxruntime")
CPU = OnnxRuntimeOptions(device="cpu", threads=1)


@pytest.fixture(scope="module")
def runtime(tiny: Path):
    with OnnxRuntime.open(tiny, CPU) as opened:
        yield opened


@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 64), st.integers(1, 80)), seed=st.integers(0, 99))
def test_frames_of_varying_size_in_one_session(runtime, build, shape: tuple[int, ...], seed: int) -> None:
    frames = build.frames(*shape, seed=seed)
    answer = runtime.infer(frames)
    assert answer.labels.dtype == np.uint8
    np.testing.assert_array_equal(answer.labels, build.labels(frames))
    assert answer.confidence is None and answer.logits is None


@pytest.mark.parametrize("view", [np.s_[:, ::-1], np.s_[:, :, ::-2], np.s_[..., ::-1], np.s_[:, 3:9, 2:7]])
def test_a_frame_that_is_not_contiguous_is_labelled_as_its_copy(runtime, build, view) -> None:
    frames = build.frames(2, 20, 30)[view]
    assert not frames.flags.c_contiguous
    np.testing.assert_array_equal(runtime.infer(frames).labels, runtime.infer(frames.copy()).labels)
    np.testing.assert_array_equal(runtime.infer(frames).labels, build.labels(frames))


def test_a_frame_that_may_only_be_read(runtime, build) -> None:
    frames = build.frames(1, 4, 4)
    frames.flags.writeable = False
    np.testing.assert_array_equal(runtime.infer(frames).labels, build.labels(frames))


def test_confidence_and_logits_come_where_they_were_exported(tiny_outputs: Path, build) -> None:
    frames = build.frames(2, 7, 5)
    with OnnxRuntime.open(tiny_outputs, CPU) as runtime:
        answer = runtime.infer(frames)
    logits = build.logits(frames)
    exp = np.exp(logits - logits.max(1, keepdims=True))
    assert answer.logits.dtype == answer.confidence.dtype == np.float32
    np.testing.assert_array_equal(answer.logits, logits)
    np.testing.assert_allclose(answer.confidence, (exp / exp.sum(1, keepdims=True)).max(1), rtol=1e-5)
    np.testing.assert_array_equal(answer.labels, logits.argmax(1))


def test_it_reports_how_it_runs(tiny: Path) -> None:
    with load(tiny, device="cpu", threads=2, optimization="basic", spinning=False) as segmenter:
        assert segmenter.device == "cpu"
        assert segmenter.details() == {
            "onnxruntime": ort.__version__,
            "provider": "cpu",
            "threads": 2,
            "optimization": "basic",
            "spinning": False,
        }


@pytest.mark.parametrize("optimization", ["none", "basic", "extended", "all"])
def test_the_answer_does_not_depend_on_options(tiny: Path, build, optimization: str) -> None:
    frames = build.frames(1, 9, 8)
    with load(tiny, device="cpu", threads=1, spinning=False, optimization=optimization) as segmenter:
        np.testing.assert_array_equal(segmenter.infer(frames).labels, build.labels(frames))


def test_the_declared_precision_is_that_of_the_description(tmp_path: Path, build) -> None:
    path = build.onnx_file(tmp_path / "half.onnx", build.spec.replace(precision="fp16"))
    with OnnxRuntime.open(path, CPU) as runtime:
        assert runtime.precision == "fp16"


def test_options_reach_the_session(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    seen: dict[str, Any] = {}
    real = ort.InferenceSession

    def note(path: str, settings: Any, **arguments: Any) -> Any:
        seen["threads"] = settings.intra_op_num_threads
        seen["level"] = settings.graph_optimization_level
        seen["spinning"] = settings.get_session_config_entry("session.intra_op.allow_spinning")
        return real(path, settings, **arguments)

    monkeypatch.setattr(ort, "InferenceSession", note)
    load(tiny, device="cpu", threads=3, optimization="none", spinning=False).close()
    assert seen == {"threads": 3, "level": ort.GraphOptimizationLevel.ORT_DISABLE_ALL, "spinning": "0"}


# Files that are not what they should be


@pytest.mark.parametrize("kept", [1, 10, 100, 0.5, -1])
def test_a_truncated_file(tiny: Path, tmp_path: Path, kept: float) -> None:
    whole = tiny.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(ModelError, match=r"cut\.onnx is not a complete ONNX file"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"hello world" * 30, bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\x03\x04"]
)
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"other\.onnx is not a complete ONNX file"):
        load(path)


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_a_graph_that_onnx_runtime_refuses(tmp_path: Path, build, capfd: pytest.CaptureFixture[str]) -> None:
    model = build.describe(build.graph())
    model.graph.node[0].op_type = "Conjure"
    with pytest.raises(ModelError, match=rf"ONNX Runtime {ort.__version__} refuses .*bad\.onnx: .*Conjure"):
        load(write(tmp_path / "bad.onnx", model))
    model = build.describe(build.graph())
    model.ir_version = 999
    with pytest.raises(ModelError, match=r"new\.onnx: .*IR version"):
        load(write(tmp_path / "new.onnx", model))
    assert capfd.readouterr() == ("", ""), "what is in the exception was printed as well"


def test_a_foreign_onnx_file_says_what_to_do(tmp_path: Path, build) -> None:
    with pytest.raises(ModelError, match=r"carries no description .* make it with: fcn-deploy export"):
        load(write(tmp_path / "foreign.onnx", build.graph()))


def transposed_input(model: onnx.ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[3].ClearField("dim_value")
    dims[3].dim_param = "channels"


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
        (transposed_input, "takes frames of channels channels where 3 are expected"),
        (float_labels, "expected output labels uint8 of rank 3, found labels float32"),
        (another_input, "expected input image uint8 of rank 4, found image .*, threshold"),
        (another_output, "expected output labels .*, found float"),
    ],
)
def test_a_graph_that_breaks_the_contract(
    tmp_path: Path, build, change: Callable[[onnx.ModelProto], None], told: str
) -> None:
    model = build.describe(build.graph())
    change(model)
    with pytest.raises(ModelError, match=rf"odd\.onnx .*{told}"):
        load(write(tmp_path / "odd.onnx", model), device="cpu")


def test_a_description_that_promises_more_than_the_graph_has(tmp_path: Path, build) -> None:
    model = build.describe(build.graph(), build.spec.replace(outputs=("labels", "logits")))
    with pytest.raises(ModelError, match=r"expected output labels .*, logits .*, found labels"):
        load(write(tmp_path / "less.onnx", model))
    with pytest.raises(ModelError, match=r"expected input image .*, found picture"):
        load(write(tmp_path / "other.onnx", build.describe(build.graph(image="picture"))))


def test_weights_beside_the_model_are_read_and_weights_elsewhere_are_not(tmp_path: Path, build) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    frames = build.frames(1, 5, 5)
    weights = build.external(folder / "net.onnx", "net.data")
    with pytest.raises(ModelError, match=r"its weights file 'net\.data' is missing"):
        load(folder / "net.onnx")
    (folder / "net.data").write_bytes(weights)
    with load(folder / "net.onnx", device="cpu") as segmenter:
        np.testing.assert_array_equal(segmenter.infer(frames).labels, build.labels(frames))

    (tmp_path / "net.data").write_bytes(weights)
    build.external(folder / "net.onnx", "../net.data")
    with pytest.raises(ModelError, match="outside its own folder"):
        load(folder / "net.onnx")


def test_a_failure_while_it_runs_is_one_error(
    tmp_path: Path, build, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build.describe(build.graph())
    shape = numpy_helper.from_array(np.array([1, 3, 2, 2], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[2].input[0] = "fixed"
    model.graph.node.insert(2, helper.make_node("Reshape", ["nchw", "shape"], ["fixed"]))
    path = write(tmp_path / "fixed.onnx", model)
    with load(path, device="cpu") as segmenter:
        assert segmenter.infer(build.frames(1, 2, 2)).labels.shape == (1, 2, 2)
        with pytest.raises(
            InferenceError, match=r"onnxruntime failed on frames of shape \(1, 3, 2, 3\)"
        ) as caught:
            segmenter.infer(build.frames(1, 3, 2))
        assert segmenter.infer(build.frames(1, 2, 2)).labels.shape == (1, 2, 2)
    assert type(caught.value.__cause__).__module__.startswith("onnxruntime")
    assert capfd.readouterr() == ("", "")


# Options


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"provider": "rocm"}, "unknown provider 'rocm'; choose cpu, cuda or tensorrt"),
        ({"optimization": "99"}, "unknown optimization '99'"),
        ({"device": "cpu", "provider": "cuda"}, "contradict each other"),
        ({"device": "cuda:1", "provider": "cpu"}, "contradict each other"),
        ({"threads": 0}, "threads must be a whole number of at least 1, not 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        OnnxRuntimeOptions(**options)


@pytest.mark.parametrize(
    "options", [{}, {"device": "cuda", "provider": "tensorrt"}, {"device": "cpu", "provider": "cpu"}]
)
def test_options_that_agree_pass(options: dict[str, Any]) -> None:
    OnnxRuntimeOptions(**options)


def test_its_providers_are_told() -> None:
    found = OnnxRuntimeBackend().diagnose()
    assert "cpu" in found.facts["providers"]
    assert "cpu" in dict(found.rows)["built with"]


@pytest.mark.parametrize(
    ("packages", "gpu", "told"),
    [
        (("onnxruntime", "onnxruntime-gpu"), False, "overwrite each other's files"),
        (("onnxruntime",), True, "'fcn-deploy[gpu]'"),
        (("onnxruntime-gpu",), True, None),
        (("onnxruntime",), False, None),
    ],
)
def test_packages_that_do_not_fit_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...], gpu: bool, told: str | None
) -> None:
    monkeypatch.setattr(backend, "version_of", lambda name: "1.0" if name in packages else None)
    monkeypatch.setattr(backend, "gpu_problem", lambda: None if gpu else "no GPU")
    warnings = OnnxRuntimeBackend().diagnose().warnings
    assert [told in warning for warning in warnings] == ([True] if told else [])


# Providers


def stand_in(*providers: str, **more: Any) -> Any:
    return SimpleNamespace(
        get_available_providers=lambda: [f"{p}ExecutionProvider" for p in providers], **more
    )


@pytest.mark.parametrize(
    ("options", "gpu", "expected"),
    [
        ({}, True, "cuda"),
        ({}, False, "cpu"),
        ({"device": "cpu"}, True, "cpu"),
        ({"device": "cuda:1"}, False, "cuda"),
        ({"provider": "tensorrt"}, False, "tensorrt"),
        ({"provider": "tensorrt", "device": "cuda:1"}, True, "tensorrt"),
        ({"provider": "cpu"}, True, "cpu"),
    ],
)
def test_the_provider_is_the_one_asked_for_or_the_best_here(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(backend, "gpu_problem", lambda index=0: None if gpu else "no GPU")
    assert wanted_provider(stand_in("Tensorrt", "CUDA", "CPU"), OnnxRuntimeOptions(**options)) == expected


def test_a_cpu_build_is_never_expected_to_use_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "gpu_problem", lambda index=0: None)
    assert wanted_provider(stand_in("CPU"), OnnxRuntimeOptions()) == "cpu"


def test_a_cpu_build_asked_for_cuda_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BackendUnavailable, match=r"is installed without it; .*pip install 'fcn-deploy\[gpu\]'"
    ):
        load(tiny, device="cuda")
    with load(tiny, device="cuda", allow_fallback=True) as segmenter:
        assert segmenter.device == "cpu"


class Silent:
    """An ONNX Runtime whose GPU providers vanish without a word, as the real one's do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
        self.kept = f"{kept}ExecutionProvider"
        self.asked: list[list[str]] = []
        self.real = ort.InferenceSession
        everything = [f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU")]
        monkeypatch.setattr(ort, "get_available_providers", lambda: everything)
        monkeypatch.setattr(ort, "InferenceSession", self.open)
        monkeypatch.setattr(backend, "gpu_problem", lambda index=0: None)
        monkeypatch.setattr(backend, "_library_problem", lambda ort, provider: None)

    def open(self, path: str, settings: Any, *, providers: list[Any], **arguments: Any) -> Any:
        assert arguments["enable_fallback"] == 0, "its own fall-back prints, and takes another provider"
        names = [name for name, _ in providers]
        self.asked.append(names)
        session = self.real(path, settings, providers=["CPUExecutionProvider"], **arguments)
        got = names[names.index(self.kept) :] if self.kept in names else names[-1:]
        session.get_providers = lambda: got
        return session


@pytest.mark.parametrize(
    "wish", [{}, {"device": "cuda"}, {"provider": "tensorrt"}, {"device": "cuda", "provider": "tensorrt"}]
)
def test_a_silent_fallback_to_the_cpu_is_an_error(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, str]
) -> None:
    Silent(monkeypatch, "CPU")
    with pytest.raises(
        BackendUnavailable, match=r"silently took CPUExecutionProvider; .* allow the fall-back"
    ):
        load(tiny, **wish)


def test_the_fallback_goes_down_step_by_step_and_the_real_provider_is_told(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Silent(monkeypatch, "CPU")
    with load(tiny, provider="tensorrt", allow_fallback=True) as segmenter:
        assert (segmenter.device, segmenter.details()["provider"]) == ("cpu", "cpu")
    assert [names[0] for names in silent.asked] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]


def test_a_gpu_session_says_which_gpu_and_provider(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Silent(monkeypatch, "CUDA")
    with load(tiny, device="cuda:2") as segmenter:
        assert (segmenter.device, segmenter.details()["provider"]) == ("cuda:2", "cuda")
    with load(tiny, provider="tensorrt", allow_fallback=True) as segmenter:
        assert (segmenter.device, segmenter.details()["provider"]) == ("cuda:0", "cuda")


def test_the_log_is_silent_while_a_gpu_session_opens_and_no_longer(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [2]
    monkeypatch.setattr(ort, "set_default_logger_severity", levels.append)
    Silent(monkeypatch, "CUDA")
    load(tiny, device="cpu").close()
    assert levels == [2]
    opened = ort.InferenceSession

    def refuse(*arguments: Any, **more: Any) -> Any:
        assert levels[-1] == 4
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: too old ; GPU=-1 ; hostname=x")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(BackendUnavailable, match=r"tiny\.onnx on cuda: CUDA failure 35: too old; choose"):
        load(tiny, device="cuda")
    assert levels == [2, 4, 2]
    monkeypatch.setattr(ort, "InferenceSession", opened)
    load(tiny, device="cuda").close()
    assert levels == [2, 4, 2, 4, 2]


def test_on_the_cpu_the_gpu_is_not_even_looked_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "gpu_problem", lambda index=0: pytest.fail("the driver was asked"))
    load(tiny, device="cpu").close()
    load(tiny, provider="cpu").close()


# IO binding, on the one device that every machine has


@pytest.fixture(scope="module")
def bound(tiny_outputs: Path) -> BoundSession:
    return BoundSession(onnxruntime_session(tiny_outputs), ["labels", "confidence", "logits"], "cpu")


@given(shapes=st.lists(st.sampled_from([(1, 4, 5), (2, 4, 5), (1, 5, 4), (1, 1, 1)]), min_size=1, max_size=6))
def test_bound_answers_are_the_plain_ones_as_sizes_change(bound, build, shapes) -> None:
    frames = [build.frames(*shape, seed=i) for i, shape in enumerate(shapes)]
    answers = [bound(one) for one in frames]
    for one, (labels, confidence, logits) in zip(frames, answers, strict=True):
        np.testing.assert_array_equal(labels, build.labels(one))
        np.testing.assert_array_equal(logits, build.logits(one))
        assert confidence.shape == labels.shape


def test_a_bound_session_recovers_from_a_failure(bound, build) -> None:
    good = build.frames(1, 4, 5)
    with pytest.raises(Exception, match=r".+"):
        bound(np.zeros((1, 4, 5, 2), np.uint8))
    np.testing.assert_array_equal(bound(good)[0], build.labels(good))
