"""What child processes and their parents share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fcn_deploy.child import environment, last_line, signal_of


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
