"""Atomic writes: which errors are about the file, and what is left of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fcn_deploy import files
from fcn_deploy.errors import UsageError
from fcn_deploy.files import atomic_output


def test_a_full_disk_is_an_error_of_the_file(tmp_path: Path) -> None:
    """``write`` names no file in its error."""
    target = tmp_path / "x.png"
    target.write_text("old")
    with (
        pytest.raises(UsageError, match=r"cannot write .*x\.png: No space left on device"),
        atomic_output(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_temporary_file_that_disappears_is_an_error_of_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"cannot write .*x\.png: No such file"),
        atomic_output(tmp_path / "x.png") as temporary,
    ):
        temporary.unlink()


def test_an_error_about_another_file_is_raised_as_it_is(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"other\.png"),
        atomic_output(tmp_path / "x.png"),
    ):
        (tmp_path / "other.png").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_replaced_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "_sync", refuse)
    with pytest.raises(UsageError, match=r"cannot write .*x\.png: "):
        files.write_text(tmp_path / "x.png", "new")
    assert list(tmp_path.iterdir()) == []
