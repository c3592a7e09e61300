"""Words that options accept, and that they are the ones that the rest of the package knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.cli import options
from fcn_deploy.errors import UsageError


@pytest.mark.parametrize(("text", "size"), [("360x480", (360, 480)), (" 1X2 ", (1, 2))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert options.parse_size(text, "--size") == size


@pytest.mark.parametrize("text", ["360", "0x480", "360x-1", "axb", "360x480x3", "", "1e3x5", "9999999x1"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--size .*expected height x width"):
        options.parse_size(text, "--size")


def test_channels() -> None:
    assert options.parse_channels("104.5, 1,-3", "--mean") == (104.5, 1.0, -3.0)


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "", "1;2;3"])
def test_channels_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--mean .*expected three numbers"):
        options.parse_channels(text, "--mean")


def test_variants_are_those_of_the_model() -> None:
    pytest.importorskip("torch")
    from fcn_deploy.model.fcn8s import VARIANTS

    assert [variant.value for variant in options.VariantChoice] == list(VARIANTS)


def test_backends_named_in_help_are_those_of_the_registry(cli) -> None:
    from fcn_deploy.runtimes.registry import BUILT_IN

    for command in ("run", "eval", "bench"):
        assert " or ".join(BUILT_IN) in cli(command, "--help").stdout


def test_an_output_is_refused_before_the_work(tmp_path: Path) -> None:
    options.check_output("-o", tmp_path / "m.onnx", (".onnx",))
    for place, part in (
        (tmp_path / "m.txt", "must end in .onnx"),
        (tmp_path / "none" / "m.onnx", "create it first"),
        (tmp_path, "must end in"),
    ):
        with pytest.raises(UsageError, match=part):
            options.check_output("-o", place, (".onnx",))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        options.check_output("-o", tmp_path / "folder.onnx", (".onnx",))


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageError, match="check its permissions"):
        options.check_output("-o", tmp_path / "m.onnx")
