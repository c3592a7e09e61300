"""What `pip install fcn-deploy` would bring onto a device."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fcn_deploy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    assert Path(wheel.filename or "").stat().st_size < 12e6


def test_the_wheel_claims_one_import_name(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fcn_deploy"}


def test_the_wheel_brings_types_and_every_module(wheel: zipfile.ZipFile) -> None:
    here = {str(p.relative_to(ROOT)) for p in (ROOT / "fcn_deploy").rglob("*.py")}
    assert here | {"fcn_deploy/py.typed"} <= set(wheel.namelist())


def test_the_wheel_brings_the_bundled_weights_and_says_what_they_are(wheel: zipfile.ZipFile) -> None:
    bundled = [n for n in wheel.namelist() if n.startswith("fcn_deploy/model/bundled/")]
    assert {Path(n).suffix for n in bundled} == {".safetensors", ".md"}


def test_the_base_needs_nothing_heavy(metadata: Message) -> None:
    base = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in base}
    assert names == {"numpy", "pillow", "rich", "safetensors", "typer"}


@pytest.mark.parametrize("python", ["3.10", "3.13"])
@pytest.mark.parametrize(
    ("system", "machine", "cuda"),
    [
        ("linux", "x86_64", True),
        ("win32", "AMD64", True),
        ("linux", "aarch64", False),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),
    ],
)
@pytest.mark.parametrize("extra", ["cpu", "gpu", "all"])
def test_an_extra_brings_one_onnx_runtime(
    extra: str, python: str, system: str, machine: str, cuda: bool, metadata: Message
) -> None:
    place = {"python_version": python, "sys_platform": system, "platform_machine": machine, "extra": extra}
    brought = [
        requirement
        for requirement in map(Requirement, metadata.get_all("Requires-Dist", []))
        if requirement.name.startswith("onnxruntime")
        and requirement.marker is not None
        and requirement.marker.evaluate(place)
    ]
    assert len(brought) == 1
    assert brought[0].name == ("onnxruntime-gpu" if cuda and extra != "cpu" else "onnxruntime")
    assert ("1.24" in brought[0].specifier) == (python != "3.10")


def test_version_and_command(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["Version"] == fcn_deploy.__version__
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "fcn-deploy = fcn_deploy.cli:main" in wheel.read(name).decode()
