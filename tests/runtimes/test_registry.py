"""An artefact finds its backend, and a wrong wish gets one clear answer."""

from __future__ import annotations

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
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.cuda.gpus import gpu_problem
from fcn_deploy.runtimes.registry import BUILT_IN, backend_for, backends, load, unavailable


def test_the_built_in_ones_come_first_and_in_order() -> None:
    assert list(backends())[: len(BUILT_IN)] == list(BUILT_IN)


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"backend": "caffe"},
            f"unknown backend 'caffe'; choose one of {', '.join(backends())}",
        ),
        (
            {"expect_sha256": "a" * 64},
            "the onnxruntime backend, which reads tiny.onnx, has no option expect_sha256; it is for "
            "pytorch and tensorrt, leave it out",
        ),
        (
            {"backend": "openvino", "spinning": False},
            "the openvino backend, which reads tiny.onnx, has no option spinning; it is for onnxruntime, "
            "leave it out",
        ),
        (
            {"backend": "pytorch"},
            "the pytorch backend reads .safetensors and .pt2, not tiny.onnx; choose onnxruntime or openvino, "
            "or make tiny.safetensors with: fcn-deploy export",
        ),
        ({"device": "tpu"}, "unknown device 'tpu'; choose cpu, cuda or cuda:N"),
        ({"threads": -1}, "threads must be a whole number of at least 1, not -1"),
        (
            {"thread": 2},
            "unknown option 'thread'; the onnxruntime backend has device, threads, allow_fallback, "
            "provider, optimization, spinning",
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
    assert "fcn-deploy[cpu]" in str(unavailable(backends()["onnxruntime"]))


def test_none_leaves_an_option_out(tiny: Path) -> None:
    with load(tiny, None, None, cuda_binding=None, threads=1) as segmenter:
        assert segmenter.details()["threads"] == 1


def test_it_says_what_can_run_here() -> None:
    libraries = {"pytorch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
    for name, library in libraries.items():
        assert (unavailable(backends()[name]) is None) == installed(library)
    # An engine needs a GPU as well.
    assert (unavailable(backends()["tensorrt"]) is None) <= (gpu_problem() is None)


def test_where_several_read_a_suffix_the_first_that_can_run_is_taken(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: set[str] = {"onnxruntime"}

    def told(backend: registry.Backend) -> str | None:
        return "it is broken" if backend.name in broken else None

    monkeypatch.setattr(registry, "unavailable", told)
    assert backend_for(tiny).name == "openvino"
    with pytest.raises(BackendUnavailable, match=r"the onnxruntime backend.* cannot run here: it is broken"):
        load(tiny, "onnxruntime")
    broken.add("openvino")
    with pytest.raises(BackendUnavailable, match=r"the onnxruntime backend.* cannot run here: it is broken"):
        load(tiny)


def test_which_can_run_is_not_asked_where_there_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "unavailable", lambda backend: pytest.fail("it was asked"))
    assert backend_for(Path("street.engine")).name == "tensorrt"


def test_a_url_that_no_backend_reads() -> None:
    with pytest.raises(
        UsageError, match=r"gopher://host/m is no artefact; expected a file ending in .*\.onnx"
    ):
        load("gopher://host/m")


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
