"""What the CPU can do decides which INT8 files it may run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.errors import BackendUnavailable
from fcn_deploy.runtimes import cpu
from fcn_deploy.runtimes.cpu import check_int8, cpu_features, has_vnni

PLAIN = frozenset({"sse4_2", "avx2", "fma"})


@pytest.mark.parametrize("text", ["flags\t\t: fpu avx2 fma\n", "processor : 0\nFeatures : fpu avx2 fma\n"])
def test_the_kernel_s_flags_are_read_on_x86_and_arm(tmp_path: Path, text: str) -> None:
    source = tmp_path / "cpuinfo"
    source.write_text(text)
    assert cpu_features(source) == {"fpu", "avx2", "fma"}


@pytest.mark.parametrize("text", [None, "", "processor : 0\n"])
def test_a_system_that_does_not_tell_is_not_known(tmp_path: Path, text: str | None) -> None:
    source = tmp_path / "cpuinfo"
    if text is not None:
        source.write_text(text)
    assert cpu_features(source) is None


@pytest.mark.parametrize(
    ("features", "machine", "expected"),
    [
        (PLAIN, "x86_64", False),
        (PLAIN | {"avx512_vnni"}, "x86_64", True),
        (PLAIN | {"avx_vnni"}, "AMD64", True),
        (frozenset({"asimddp"}), "aarch64", None),
    ],
)
def test_vnni_is_told_apart(features: frozenset[str], machine: str, expected: bool | None) -> None:
    assert has_vnni(features, machine) is expected


def quantised(build, **record):
    return build.spec.with_evidence("quantization", {"target": "cpu", **record})


def test_a_file_for_vnni_is_refused_where_there_is_none(build, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "has_vnni", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"x\.onnx was quantised for CPUs with VNNI.*--assume-vnni"):
        check_int8(quantised(build, assume_vnni=True), Path("x.onnx"))


@pytest.mark.parametrize("here", [True, None])
def test_it_is_accepted_where_there_is_one_or_nobody_knows(build, monkeypatch, here) -> None:
    monkeypatch.setattr(cpu, "has_vnni", lambda: here)
    check_int8(quantised(build, assume_vnni=True), Path("x.onnx"))


def test_every_other_file_is_accepted(build, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "has_vnni", lambda: False)
    check_int8(build.spec, Path("x.onnx"))
    check_int8(quantised(build, assume_vnni=False), Path("x.onnx"))


def test_signed_integers_are_refused_only_by_a_backend_that_fuses_them(build, monkeypatch) -> None:
    spec = build.spec.with_evidence("quantization", {"target": "tensorrt", "assume_vnni": False})
    monkeypatch.setattr(cpu, "has_vnni", lambda: False)
    check_int8(spec, Path("x.onnx"))
    with pytest.raises(BackendUnavailable, match=r"quantised for TensorRT.*--target cpu"):
        check_int8(spec, Path("x.onnx"), fuses_signed=True)
    monkeypatch.setattr(cpu, "has_vnni", lambda: True)
    check_int8(spec, Path("x.onnx"), fuses_signed=True)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_both_cpu_backends_ask(build, monkeypatch, tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    from fcn_deploy.runtimes.registry import load

    monkeypatch.setattr(cpu, "has_vnni", lambda: False)
    path = build.onnx_file(tmp_path / "vnni.onnx", quantised(build, assume_vnni=True))
    with pytest.raises(BackendUnavailable, match="VNNI"):
        load(path, backend=backend, device="cpu")


def test_a_file_for_tensorrt_is_no_matter_of_vnni(build, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "has_vnni", lambda: False)
    spec = build.spec.with_evidence("quantization", {"target": "tensorrt", "assume_vnni": False})
    check_int8(spec, tmp_path / "x.onnx")


def test_falling_back_to_the_cpu_asks_as_well(build, monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from fcn_deploy.runtimes import onnxruntime as backend
    from fcn_deploy.runtimes.registry import load

    monkeypatch.setattr(cpu, "has_vnni", lambda: False)
    monkeypatch.setattr(backend, "_provider_problem", lambda ort, provider, index: provider != "cpu" and "no")
    path = build.onnx_file(tmp_path / "vnni.onnx", quantised(build, assume_vnni=True))
    with pytest.raises(BackendUnavailable, match="VNNI"):
        load(path, "onnxruntime", "cuda", allow_fallback=True)
