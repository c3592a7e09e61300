"""doctor: always an answer, whatever is missing or broken."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fcn_deploy.bench import machine
from fcn_deploy.cli import doctor as doctor_module
from fcn_deploy.cli.doctor import _FLAGS, _reason, _warnings
from fcn_deploy.runtimes.registry import BACKENDS

NO_PROBES = {name: None for name in BACKENDS}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Backend -> reason; nothing is really imported."""
    reasons: dict[str, str | None] = dict(NO_PROBES)
    monkeypatch.setattr(doctor_module, "_start_probe", lambda name: name)
    monkeypatch.setattr(doctor_module, "_reason", lambda name: reasons[name])
    return reasons


def test_json_names_every_backend(cli, probed: dict[str, str | None]) -> None:
    probed["pytorch"] = "torch is not installed; run: pip install 'fcn-deploy[export]'"
    report = json.loads(cli("doctor", "--json").stdout)
    assert report["backends"] == [
        {"name": name, "usable": reason is None, "reason": reason} for name, reason in probed.items()
    ]
    assert report["versions"]["python"].startswith("3.")
    assert report["machine"]["cores_usable"] >= 1
    assert isinstance(report["gpu"]["devices"], list)


def test_words_say_why_not_and_what_to_install(cli, probed: dict[str, str | None]) -> None:
    probed["pytorch"] = "torch is not installed; run: pip install 'fcn-deploy[export]'"
    told = cli("doctor").stdout
    assert "  pytorch      no: torch is not installed; run: pip install 'fcn-deploy[export]'" in told
    assert "  onnxruntime  usable" in told
    assert "GStreamer" in told or "fcn-deploy[opencv]" in told


def test_a_check_that_fails_is_a_line_and_not_the_end(cli, probed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, object]:
        raise OSError("no such thing")

    monkeypatch.setattr(machine, "describe_machine", broken)
    for check in ("_gpu", "_opencv", "_backends"):
        monkeypatch.setattr(doctor_module, check, broken)
    result = cli("doctor")
    assert result.exit_code == 0
    assert result.stdout.count("could not be found out (OSError: no such thing)") == 4
    assert cli("doctor", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("print('noise'); print('null')", None),
        ("print('\"not installed\"')", "not installed"),
        ("raise ImportError('libGL.so.1 is missing')", "libGL.so.1 is missing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashes while it loads (signal 4)"),
        ("import time; time.sleep(60)", "did not load within 1 s"),
    ],
)
def test_a_backend_is_asked_in_a_process_that_may_die(
    monkeypatch: pytest.MonkeyPatch, code: str, part: str | None
) -> None:
    monkeypatch.setattr(doctor_module, "_PROBE_SECONDS", 1.0 if "sleep" in code else 60.0)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    found = _reason(process)
    assert found is None if part is None else part in str(found)


def test_the_probe_asks_the_registry() -> None:
    process = doctor_module._start_probe("onnxruntime")
    assert _reason(process) == BACKENDS["onnxruntime"].unavailable()


GPU_LESS = {"devices": [], "reason": "no NVIDIA driver is installed"}


def _with(capability: str) -> dict[str, object]:
    return {"devices": [{"name": "a GPU", "compute_capability": capability, "memory": 1}], "cuda": "13.0"}


@pytest.mark.parametrize(
    ("module", "gpu", "builds", "runs"),
    [
        ("tensorrt", GPU_LESS, "nothing, it builds on the GPU itself (no NVIDIA", "no: no NVIDIA driver"),
        ("tensorrt", _with("8.7"), "for a GPU (compute capability 8.7)", "on a GPU"),
        ("tensorrt_rtx", GPU_LESS, "for GeForce and RTX GPUs", "no: no NVIDIA driver is installed"),
        ("tensorrt_rtx", _with("8.9"), "on any machine", "on a GPU (compute capability 8.9)"),
        ("tensorrt_rtx", _with("8.7"), "on any machine", "no: it does not cover compute capability 8.7"),
    ],
)
def test_what_each_tensorrt_builds_and_runs_here(
    monkeypatch: pytest.MonkeyPatch, module: str, gpu: dict[str, object], builds: str, runs: str
) -> None:
    monkeypatch.setattr(doctor_module, "installed", lambda name: name == module)
    (line,) = doctor_module._tensorrt({"tensorrt": "10.3.0", "tensorrt-rtx": "1.7.1.116"}, gpu)
    assert line["version"] in ("10.3.0", "1.7.1.116")
    assert builds in str(line["builds"])
    assert runs in str(line["runs"])
    assert [name for name, _ in doctor_module._tensorrt_words([line])] == ["TensorRT", "  builds", "  runs"]


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "installed", lambda name: False)
    lines = doctor_module._tensorrt({}, GPU_LESS)
    assert lines == []
    assert "fcn-deploy[tensorrt-rtx]" in doctor_module._tensorrt_words(lines)[0][1]


def test_packages_that_overwrite_each_other_are_warned_of() -> None:
    assert "overwrite" in _warnings({"onnxruntime": "1", "onnxruntime-gpu": "1"}, gpu=False)[0]
    assert "OpenCV" in _warnings({"opencv-python": "1", "opencv-python-headless": "1"}, gpu=False)[0]
    assert "fcn-deploy[gpu]" in _warnings({"onnxruntime": "1"}, gpu=True)[0]
    assert _warnings({"onnxruntime": "1", "opencv-python": "1"}, gpu=False) == []


def test_flags_with_a_name_are_flags_that_the_machine_reports() -> None:
    assert set(_FLAGS) <= set(machine._FLAGS)


@pytest.mark.parametrize(
    ("architecture", "flags", "told"),
    [
        ("x86_64", ["avx", "avx2", "fma"], ", AVX2, no VNNI"),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], ", AVX2, AVX-512, VNNI"),
        ("AMD64", ["avx2", "avx_vnni"], ", AVX2, VNNI"),
        ("x86_64", ["avx"], ", no VNNI"),
        ("x86_64", [], ""),
        ("aarch64", ["asimddp", "i8mm"], ", dot product, int8 matrix product"),
    ],
)
def test_what_the_cpu_has_for_int8(architecture: str, flags: list[str], told: str) -> None:
    facts = {**machine.describe_machine(), "architecture": architecture, "flags": flags}
    words = dict(doctor_module._machine_words({**facts, "cpu": "a CPU", "cores_usable": 2, "cores_total": 4}))
    assert words["CPU"] == "a CPU, 2 of 4 cores usable" + told


def test_it_takes_no_arguments(cli) -> None:
    for words in (("now",), ("--verbose",), ("--json", "x")):
        assert cli("doctor", *words).exit_code == 2
