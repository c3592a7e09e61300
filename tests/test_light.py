"""An edge device needs no PyTorch and no OpenCV, and may still run Python 3.10."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcn_deploy

PACKAGE = Path(fcn_deploy.__file__).parent
ROOT = PACKAGE.parent
HEAVY = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino"),
    *("tensorrt", "tensorrt_rtx", "cv2", "PIL", "matplotlib"),
)
COMMANDS = ("bench", "check", "clip", "doctor", "eval", "export", "inspect", "run")

# A module that says `try: import torch` at its top imports well without torch and is not light,
# so the wall also notes who knocked.
WALL = """
import importlib, json, sys

class Wall:
    heavy = set(json.loads(sys.argv[1]))
    asked = []

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.heavy:
            cls.asked.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Wall)
"""
IMPORT_EACH = """
for module in json.loads(sys.argv[2]):
    Wall.asked.clear()
    error = ""
    try:
        importlib.import_module(module)
    except Exception as exc:
        error = repr(exc)
    print(json.dumps([module, {"error": error, "asked": Wall.asked}]))
"""
SHOW_HELP = """
sys.argv = ["fcn-deploy", *json.loads(sys.argv[2]), "--help"]
from fcn_deploy.cli import main
try:
    main()
except SystemExit as exc:
    assert not exc.code, exc.code
assert not Wall.asked, Wall.asked
"""
STDLIB_ONLY = ["fcn_deploy", "fcn_deploy.errors", "fcn_deploy.files", "fcn_deploy.lazy", "fcn_deploy.spec"]
COMPILE_EACH = """
import sys
assert sys.version_info[:2] == (3, 10)
for path in sys.argv[1:]:
    with open(path, "rb") as source:
        compile(source.read(), path, "exec")
"""


def light_modules() -> list[str]:
    """All but the model and the exporter, which are nothing without torch."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    exporters = ("onnx", "opening", "program", "reference", "tracing")
    with_torch = tuple(f"fcn_deploy.export.{name}" for name in exporters)
    return [name for name in names if not name.startswith(("fcn_deploy.model.", *with_torch))]


def run_python(code: str, *arguments: str, python: str = sys.executable) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outcome() -> dict[str, dict[str, object]]:
    """What happened to each module when it was imported with nothing heavy to be had."""
    lines = run_python(WALL + IMPORT_EACH, json.dumps(HEAVY), json.dumps(light_modules()))
    return dict(json.loads(line) for line in lines.splitlines())


@pytest.mark.parametrize("module", light_modules())
def test_module_imports_without_anything_heavy(module: str, outcome: dict[str, dict[str, object]]) -> None:
    assert outcome[module] == {"error": "", "asked": []}


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS)], ids=" ".join)
def test_help_needs_nothing_heavy(command: tuple[str, ...]) -> None:
    run_python(WALL + SHOW_HELP, json.dumps(HEAVY), json.dumps(command))


def test_sources_use_nothing_newer_than_python_3_10() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("vermin"), "-t=3.10-", "--violations", "--no-tips", str(PACKAGE)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_python_3_10_compiles_every_module(python310: str) -> None:
    run_python(COMPILE_EACH, *map(str, PACKAGE.rglob("*.py")), python=python310)


def test_python_3_10_imports_what_needs_only_itself(python310: str) -> None:
    lines = run_python(WALL + IMPORT_EACH, json.dumps(HEAVY), json.dumps(STDLIB_ONLY), python=python310)
    assert [json.loads(line)[1]["error"] for line in lines.splitlines()] == [""] * len(STDLIB_ONLY)
