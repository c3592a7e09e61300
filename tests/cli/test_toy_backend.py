"""A backend of another package, with a file format and a URL scheme of its own, is as good as a built-in one.

It is found by its entry point alone: a folder on PYTHONPATH holds one module and the metadata that pip
would have written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fcn_deploy
from fcn_deploy.errors import BackendUnavailable, ModelError, UsageError
from fcn_deploy.runtimes import registry
from fcn_deploy.runtimes.artefact import identity, read_spec
from fcn_deploy.spec import Architecture, ModelSpec

ROOT = Path(fcn_deploy.__file__).parents[1]
MODULE = (Path(__file__).parent / "toy_backend.py").read_text()
URL = "toy://someone:secret@host/street"
SHOWN = "toy://host/street"
SPEC = ModelSpec(
    classes=("blue", "green", "red"),
    architecture=Architecture("fcn8s-lite"),
    note="a toy",
    max_height=64,
    max_width=64,
)


def shown(artefact: str) -> str:
    """What is shown of it: no user, password or query of a URL."""
    return SHOWN if artefact == URL else artefact


Install = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


def install(folder: Path, package: str, entry_points: str, **modules: str) -> Path:
    """Write what pip would: modules, and a .dist-info with entry points."""
    folder.mkdir(exist_ok=True)
    about = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[fcn_deploy.backends]\n{entry_points}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the toy backend installed."""
    return install(tmp_path / "site", "toy-backend", "toy = toy_backend:ToyBackend", toy_backend=MODULE)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "street.toy"
    path.write_text(SPEC.to_json())
    return path


@pytest.fixture(params=["file", "URL"])
def artefact(request: pytest.FixtureRequest, toy: Path) -> str:
    return str(toy) if request.param == "file" else URL


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """``run("inspect", path)``: the command line in a process of its own, which finds the toy."""

    def call(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from fcn_deploy.cli import main; main()", *map(str, words)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return done

    return call


def test_inspect(run: Run, artefact: str, toy: Path) -> None:
    facts = json.loads(run("inspect", artefact, "--json").stdout)
    assert facts["file"] == shown(artefact)
    assert facts["contents"] == {"cells": 3}
    assert facts["spec"]["classes"] == ["blue", "green", "red"]
    assert len(facts["identity"]) == 64
    is_file = artefact == str(toy)
    assert (facts["bytes"] == toy.stat().st_size) == (facts["sha256"] is not None) == is_file
    words = run("inspect", artefact).stdout
    assert words.startswith(shown(artefact)) and "secret" not in words
    assert "cells" in words


def test_run(run: Run, artefact: str, image: Path, tmp_path: Path) -> None:
    words = ("run", artefact, image, "--masks", tmp_path / "masks", "--json")
    found = json.loads(run(*words).stdout)
    assert (found["artefact"], found["backend"], found["frames"]) == (shown(artefact), "toy", 1)
    (mask,) = (tmp_path / "masks").iterdir()
    expected = 2 - np.asarray(Image.open(image)).argmax(2)
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)
    run(*words, "--option", "shift=1")
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), (expected + 1) % 3)


def test_eval(run: Run, artefact: str, labelled: Path) -> None:
    done = run("eval", artefact, "--backend", "toy", "--data", labelled, "--json", "scores.json")
    assert "street" in done.stdout and "(toy)" in done.stdout and "secret" not in done.stdout
    (scores,) = json.loads((labelled.parent / "scores.json").read_text())["results"]
    assert scores["artefact"] == shown(artefact) and scores["mean_iu"] == 1
    run("eval", artefact, "--data", labelled, "--json", "scores.json", "--option", "shift=2")
    (scores,) = json.loads((labelled.parent / "scores.json").read_text())["results"]
    assert scores["mean_iu"] == 0


def test_bench(run: Run, artefact: str, tmp_path: Path) -> None:
    short = ["--size", "16x20", "--rounds", "1", "--seconds", "0.05", "--threads", "1"]
    short += ["--option", "shift=1"]
    run("bench", artefact, *short, "--json", "bench.json", "--report", "bench.html")
    found = json.loads((tmp_path / "bench.json").read_text())
    (row,) = found["rows"]
    assert row["failure"] is None
    assert (row["backend"], row["details"]) == ("toy", {"toy": "1.0", "shift": 1})
    assert found["method"]["options"] == {"shift": 1}
    assert row["name"] == ("street.toy · toy" if artefact.endswith(".toy") else "toy://host/street · toy")
    assert "secret" not in (tmp_path / "bench.html").read_text()
    assert "data:image/png" in (tmp_path / "bench.html").read_text()


def test_doctor(run: Run, site: Path) -> None:
    install(site, "broken", "broken = broken_backend:It", broken_backend="import a_library_that_is_gone")
    report = json.loads(run("doctor", "--json").stdout)
    found = {backend["name"]: backend for backend in report["backends"]}
    assert list(found)[:4] == list(registry.BUILT_IN)
    assert found["toy"]["usable"] and found["toy"]["details"] == {"mood": "good"}
    assert report["versions"]["toy-backend"] == "1.0"
    assert not found["broken"]["usable"]
    assert "the package broken gives no backend (ModuleNotFoundError" in found["broken"]["reason"]
    words = run("doctor").stdout
    assert "broken" in words and "a_library_that_is_gone" in words
    assert "mood" in words


def test_a_wrong_use_is_one_sentence(run: Run, toy: Path, image: Path, site: Path) -> None:
    for words, told in (
        ((toy, image, "--provider", "cpu"), "has no option provider; it is for onnxruntime"),
        (
            (toy, image, "--backend", "openvino"),
            "openvino backend reads .onnx, not street.toy; choose toy",
        ),
        ((toy, image, "--option", "shift"), "--option shift: expected NAME=VALUE"),
        ((toy, image, "--option", "shift=a"), "--option shift=a: expected a whole number"),
        ((toy, image, "--option", "shift=3"), "shift must be 0, 1 or 2, not 3"),
        (
            (toy, image, "--option", "gain=1"),
            "unknown option 'gain'; the toy backend has device, threads, shift",
        ),
        (("toy://host/none", image), "there is no none on host"),
        (("toi://host/street", image), "or a URL beginning with toy://"),
    ):
        (line,) = run("run", *words, code=2).stderr.strip().splitlines()
        assert line.startswith("Error: ") and told in line
    install(site, "broken", "broken = broken_backend:It", broken_backend="1 / 0")
    for words, told in (
        ((toy, image, "--backend", "broken"), "the backend broken cannot be used"),
        (("street.broken", image), "the backend broken cannot be used"),
    ):
        (toy.parent / "street.broken").write_text("x")
        assert told in run("run", *words, code=2).stderr


# --- in this process ---------------------------------------


@pytest.fixture
def look_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Put a folder on the path and let the registry look for backends once more."""

    def look(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        registry._registered.cache_clear()

    yield look
    registry._registered.cache_clear()
    sys.modules.pop("toy_backend", None)


def test_options_of_its_own(site: Path, toy: Path, look_again: Callable[[Path], None]) -> None:
    look_again(site)
    frames = np.zeros((1, 2, 3, 3), np.uint8)
    with fcn_deploy.load(str(toy), shift=1) as segmenter:
        assert segmenter.infer(frames).labels.tolist() == [[[1, 1, 1], [1, 1, 1]]]
    with pytest.raises(UsageError, match="shift must be 0, 1 or 2, not 3"):
        fcn_deploy.load(URL, shift=3)
    with pytest.raises(UsageError, match=r"'gain'; the toy backend has device, threads, shift"):
        fcn_deploy.load(URL, gain=1)
    with pytest.raises(BackendUnavailable, match="the toy runs on the CPU only"):
        fcn_deploy.load(URL, device="cuda")


def test_options_of_its_own_in_a_benchmark(
    site: Path, artefact: str, look_again: Callable[[Path], None]
) -> None:
    look_again(site)
    for options, told in (
        ({"shift": 3}, "shift must be 0, 1 or 2, not 3"),
        ({"gain": 1}, "unknown option 'gain'; the toy backend has device, threads, shift"),
        ({"provider": "cpu"}, "the toy backend has no option provider; it is for onnxruntime"),
        ({"shift": Path("1")}, "options of a benchmark"),
    ):
        with pytest.raises(UsageError, match=told):
            fcn_deploy.benchmark(artefact, sizes=((16, 20),), **options)


def test_spec_and_identity_are_its_own(site: Path, toy: Path, look_again: Callable[[Path], None]) -> None:
    look_again(site)
    assert read_spec(toy) == SPEC
    assert identity(toy) != identity(URL)
    toy.write_text("{")
    with pytest.raises(ModelError, match=r"street\.toy"):
        read_spec(toy)


SAME = MODULE.replace('name = "toy"', 'name = "onnxruntime"')


@pytest.mark.parametrize(
    ("entry", "text", "reason"),
    [
        ("toy = odd:ToyBackend", MODULE, "toy-backend has a backend of this name; uninstall one of them"),
        ("onnxruntime = odd:ToyBackend", SAME, "fcn-deploy has a backend of this name"),
        ("other = odd:ToyBackend", MODULE, "it is registered as other and its name is toy"),
        ("odd = odd:Nothing", "", "AttributeError"),
        ("odd = odd:Thing", "Thing = 3", "odd:Thing is not a class derived from fcn_deploy.runtimes.Backend"),
        ("odd = odd:Half", "from fcn_deploy.runtimes import Backend\nclass Half(Backend): pass", "TypeError"),
        ("odd = odd:It", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("odd = odd:It", "def", "SyntaxError"),
    ],
)
def test_one_that_is_wrong_does_not_affect_the_others(
    site: Path,
    toy: Path,
    look_again: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    entry: str,
    text: str,
    reason: str,
) -> None:
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    look_again(install(site, "wrong", entry, odd=text))
    ((name, told),) = registry.problems()
    assert name == entry.partition(" ")[0]
    assert told.startswith("the package wrong gives no backend (") and reason in told
    assert list(registry.backends()) == [*registry.BUILT_IN, "toy"]
    with fcn_deploy.load(toy) as segmenter:
        assert segmenter.backend == "toy"


def test_a_damaged_package_affects_none(site: Path, toy: Path, look_again: Callable[[Path], None]) -> None:
    install(site, "unrelated", "x")
    (site / "unrelated-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe")
    look_again(site)
    assert fcn_deploy.load(toy).backend == "toy"


def test_one_that_fails_when_it_is_asked_gives_way(
    site: Path, toy: Path, look_again: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_again(site)
    backend = registry.backends()["toy"]
    for method in ("unavailable", "diagnose"):
        monkeypatch.setattr(type(backend), method, lambda self: 1 / 0)
    with pytest.raises(BackendUnavailable, match=r"it could not be asked \(ZeroDivisionError"):
        fcn_deploy.load(toy)
    found = registry.diagnose("toy")
    assert "ZeroDivisionError" in found["reason"] and "ZeroDivisionError" in found["warnings"][0]
