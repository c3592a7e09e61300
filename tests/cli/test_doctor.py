"""doctor: always an answer, whatever is missing or broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fcn_deploy.bench import machine
from fcn_deploy.cli import doctor as doctor_module
from fcn_deploy.cli.doctor import _FLAGS, _probed, _warnings
from fcn_deploy.runtimes.registry import BUILT_IN, diagnose


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Backend -> reason; nothing is really imported."""
    reasons: dict[str, str | None] = dict.fromkeys(BUILT_IN)
    monkeypatch.setattr(doctor_module, "_start_probe", lambda name: name)
    monkeypatch.setattr(
        doctor_module,
        "_probed",
        lambda name: {
            **{"reason": reasons[name], "details": {"of": name}},
            **{"rows": [("of", name)], "warnings": [f"{name} is odd"]},
        },
    )
    return reasons


def test_json_names_every_backend(cli, probed: dict[str, str | None]) -> None:
    probed["pytorch"] = "torch is not installed; run: pip install 'fcn-deploy[export]'"
    report = json.loads(cli("doctor", "--json").stdout)
    assert report["backends"] == [
        {
            **{"name": name, "usable": reason is None, "reason": reason},
            **{"details": {"of": name}, "warnings": [f"{name} is odd"]},
        }
        for name, reason in probed.items()
    ]
    assert report["versions"]["python"].startswith("3.")
    assert report["machine"]["cores_usable"] >= 1
    assert isinstance(report["gpu"]["devices"], list)


def test_words_say_why_not_and_what_to_install(cli, probed: dict[str, str | None]) -> None:
    probed["pytorch"] = "torch is not installed; run: pip install 'fcn-deploy[export]'"
    result = cli("doctor")
    told = result.stdout
    assert "  pytorch      no: torch is not installed; run: pip install 'fcn-deploy[export]'" in told
    assert "  onnxruntime  usable" in told
    assert "    of         openvino" in told
    assert "Warning: tensorrt is odd" in result.stderr
    assert "GStreamer" in told or "fcn-deploy[opencv]" in told


def test_a_check_that_fails_is_a_line_and_not_the_end(cli, probed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, object]:
        raise OSError("no such thing")

    monkeypatch.setattr(machine, "describe_machine", broken)
    for check in ("_gpu", "_opencv", "_backends"):
        monkeypatch.setattr(doctor_module, check, broken)
    result = cli("doctor")
    assert result.exit_code == 0
    assert result.stdout.count("could not be checked (OSError: no such thing)") == 4
    assert cli("doctor", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("print('noise'); print('{\"reason\": null}')", None),
        ('print(\'{"reason": "not installed"}\')', "not installed"),
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
    found = _probed(process)["reason"]
    assert found is None if part is None else part in str(found)


def test_the_probe_asks_the_registry() -> None:
    found = _probed(doctor_module._start_probe("onnxruntime"))
    assert found == json.loads(json.dumps(diagnose("onnxruntime")))


def test_a_module_in_the_working_folder_does_not_disturb_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    assert _probed(doctor_module._start_probe("onnxruntime"))["reason"] is None


def test_packages_that_overwrite_each_other_are_warned_of() -> None:
    assert "OpenCV" in _warnings({"opencv-python": "1", "opencv-python-headless": "1"})[0]
    assert _warnings({"onnxruntime": "1", "opencv-python": "1"}) == []


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
