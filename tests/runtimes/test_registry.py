"""An artefact finds its backend, and a wrong wish gets one clear answer."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fcn_deploy
from fcn_deploy.errors import BackendUnavailable, MissingDependency, UsageError
from fcn_deploy.lazy import installed
from fcn_deploy.runtimes import registry
from fcn_deploy.runtimes.base import Runtime, RuntimeOptions
from fcn_deploy.runtimes.cuda.gpus import gpu_problem
from fcn_deploy.runtimes.registry import BACKENDS, availability, backend_for, load, read_spec


@pytest.mark.parametrize("name", BACKENDS)
def test_each_entry_leads_to_its_runtime(name: str) -> None:
    entry = BACKENDS[name]
    runtime = entry.runtime()
    assert issubclass(runtime, Runtime)
    assert runtime.backend == entry.name == name


def test_each_backend_is_reached_through_load(tiny: Path, lite: Path) -> None:
    for path, backend in ((tiny, "onnxruntime"), (lite, "pytorch")):
        for wish in (None, backend):
            with load(path, wish, device="cpu") as segmenter:
                assert (segmenter.backend, segmenter.device) == (backend, "cpu")
                assert segmenter.spec == read_spec(path)
                assert segmenter.infer(np.zeros((9, 7, 3), np.uint8)).labels.shape == (1, 9, 7)


def test_load_is_public(tiny: Path) -> None:
    with fcn_deploy.load(str(tiny)) as segmenter:
        assert isinstance(segmenter, fcn_deploy.Segmenter)


OPTIONS = ", ".join(field.name for field in dataclasses.fields(RuntimeOptions))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"backend": "caffe"},
            "unknown backend 'caffe'; choose one of pytorch, onnxruntime, tensorrt, openvino",
        ),
        (
            {"expect_sha256": "a" * 64},
            "expect_sha256 is checked for engines only, and tiny.onnx is none; leave it away",
        ),
        (
            {"backend": "pytorch"},
            "the pytorch backend reads .safetensors, not tiny.onnx; choose onnxruntime or openvino, or "
            "export the model again as tiny.safetensors",
        ),
        ({"device": "tpu"}, "unknown device 'tpu'; choose cpu, cuda or cuda:N"),
        ({"threads": -1}, "threads must be at least 1, not -1"),
        (
            {"thread": 2},
            f"unknown option 'thread'; choose from {OPTIONS}",
        ),
    ],
)
def test_a_wrong_wish_names_what_is_possible(tiny: Path, arguments: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tiny, **arguments)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fcn.pth", "export it first: fcn-deploy export --weights"),
        ("fcn.jpg", "is no artefact"),
    ],
)
def test_files_that_no_backend_opens(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UsageError, match=told):
        load(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.onnx does not exist"):
        load(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        load(tmp_path)


def test_a_backend_that_is_not_installed_says_what_brings_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable) as caught:
        load(tiny)
    assert "the onnxruntime backend, which reads tiny.onnx, cannot run here" in str(caught.value)
    assert "pip install 'fcn-deploy[cpu]'" in str(caught.value)
    assert not isinstance(caught.value, MissingDependency)
    reasons = {entry.name: reason for entry, reason in availability()}
    assert "fcn-deploy[cpu]" in (reasons["onnxruntime"] or "")


def test_availability_tells_what_is_installed_here() -> None:
    libraries = {"pytorch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
    told = {entry.name: reason for entry, reason in availability()}
    assert list(told) == list(BACKENDS)
    for name, library in libraries.items():
        assert (told[name] is None) == installed(library), told[name]
    # An engine needs a GPU as well.
    assert (told["tensorrt"] is None) <= (gpu_problem() is None)


def test_where_several_read_a_suffix_the_first_that_can_run_is_taken(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(registry.Backend):
        def unavailable(self) -> str | None:
            return "it is broken"

    broken = Broken("first", "nowhere:Nothing", (".onnx",), "x")
    monkeypatch.setattr(registry, "BACKENDS", {"first": broken, **BACKENDS})
    assert backend_for(tiny).name == "onnxruntime"
    with pytest.raises(BackendUnavailable, match=r"the first backend.* cannot run here: it is broken"):
        load(tiny, "first")
    monkeypatch.setattr(registry, "BACKENDS", {"first": broken})
    with pytest.raises(BackendUnavailable, match="it is broken"):
        load(tiny)


def test_the_registry_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        BACKENDS["mine"] = BACKENDS["pytorch"]  # type: ignore[index]


LOADED = """
import json, sys
import fcn_deploy
segmenter = fcn_deploy.load(sys.argv[1], device="cpu")
segmenter.warm_up(8, 8)
heavy = ("torch", "onnx", "onnxruntime", "cv2", "PIL", "typer")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_an_onnx_file_runs_with_nothing_but_onnxruntime_imported(tiny: Path) -> None:
    root = Path(fcn_deploy.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(tiny)], capture_output=True, text=True, cwd=root, check=True
    )
    assert json.loads(done.stdout) == ["onnxruntime"]
    assert done.stderr == ""
