"""What child processes and their parents share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcn_deploy.child import command, environment, last_line, signal_of


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (-11, "SIGSEGV"),
        (-9, "SIGKILL"),
        (137, "SIGKILL"),
        (-63, "signal 63"),
        (0, None),
        (1, None),
        (128, None),
        (255, None),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that end a process")
def test_the_signal_that_ended_a_child_is_named(code: int, name: str | None) -> None:
    assert signal_of(code) == name


def test_the_last_line_is_found_whatever_was_written(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    for written, expected in ((b"", ""), (b"one\ntwo\n\n", "two"), (b"\xff" * 400, "�" * 300)):
        path.write_bytes(written)
        assert last_line(path) == expected


def test_a_child_finds_the_modules_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_parent.py").write_text("found = 3")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [sys.executable, "-c", "import os, of_the_parent; print(of_the_parent.found, os.environ['MORE'])"]
    done = subprocess.run(words, env=environment({"MORE": "4"}), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "4"]


def test_an_entry_of_the_path_that_is_not_a_string_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [Path("a"), "b", "", None])
    assert environment()["PYTHONPATH"] == os.pathsep.join(["b", os.getcwd()])


SHADOWED = ("json", "runpy", "os", "fcn_deploy")
"""Modules that the working folder has too."""

ACTOR = """
import json, os, runpy, sys
if __name__ == "__main__":
    print(sys.argv[1:], any(hasattr(module, "shadow") for module in (json, os, runpy)))
"""


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder has modules of the names in SHADOWED. Returned is a folder with ``actor.py``."""
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text("shadow = True")
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "actor.py").write_text(ACTOR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return folder


def test_a_module_in_the_working_folder_hides_none_of_the_childs(
    shadowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(shadowed))
    words = [*command("actor"), "1", "two"]
    for variables in (environment(), {**environment(), "PYTHONSAFEPATH": ""}):
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("['1', 'two'] False\n", "")


def test_nor_does_it_on_python_310(shadowed: Path, python310: str) -> None:
    words = [python310, *command("actor")[1:], "1", "two"]
    variables = {**environment(), "PYTHONPATH": str(shadowed)}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['1', 'two'] False\n", "")


@pytest.mark.parametrize("executable", [None, ""])
def test_without_a_python_no_child_can_be_started(
    executable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(FileNotFoundError, match=r"sys\.executable names no Python"):
        command("actor")
