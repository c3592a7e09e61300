"""A file and a URL are told apart, and neither is changed on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.location import locate, scheme_of, short_name, shown


def test_a_url_stays_as_it_was_given() -> None:
    url = "Toy+grpc://user:secret@host:8001//models/street?key=1"
    assert locate(url) == url
    assert scheme_of(url) == "toy+grpc"


def test_a_file_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    assert locate(str(tmp_path / "m.onnx")) == locate(tmp_path / "m.onnx") == tmp_path / "m.onnx"
    assert scheme_of(tmp_path / "m.onnx") == ""


def test_a_url_that_was_made_a_path_says_so() -> None:
    with pytest.raises(UsageError, match="looks like a URL; give it as a str"):
        locate(Path("toy://host/street"))


@pytest.mark.parametrize("path", [r"C:\models\m.onnx", "C://models/m.onnx", "models/m:1.onnx", "://m.onnx"])
def test_other_colons_are_no_scheme(path: str) -> None:
    assert scheme_of(path) == ""
    with pytest.raises(UsageError, match="does not exist"):
        locate(path)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        (Path("models/street.onnx"), "street.onnx"),
        ("models/street.onnx", "street.onnx"),
        ("toy://host/street", "toy://host/street"),
        ("toy://host", "toy://host"),
        ("toy://user:secret@host:80/street?token=1#x", "toy://host:80/street"),
        ("toy://host?mail=a@b", "toy://host"),
    ],
)
def test_the_short_name_has_no_folder_and_no_secret(location: Path | str, name: str) -> None:
    assert short_name(location) == name


def test_what_is_shown_has_the_folder_of_a_file_and_no_secret() -> None:
    assert shown(Path("models/street.onnx")) == shown("models/street.onnx") == str(Path("models/street.onnx"))
    assert shown("toy://user:secret@host:80/street?token=1#x") == "toy://host:80/street"
