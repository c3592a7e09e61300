"""``--option NAME=VALUE``: text becomes what the options class of a backend says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytest

from fcn_deploy.cli.backend_options import read_options, with_typed
from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.backend import Backend, BackendOptions


@dataclass(frozen=True)
class Own(BackendOptions):
    count: int = 1
    gain: float = 1.0
    spin: bool = True
    mode: str = "fast"
    limit: Optional[int] = 3  # noqa: UP045
    either: int | str = 0
    table: tuple[int, ...] = ()


@dataclass(frozen=True)
class Others(BackendOptions):
    count: str = ""
    license: str = ""


def backend(name: str, options: type[BackendOptions]) -> Backend[Any]:
    kind = type("Some", (Backend,), {"name": name, "options": options})
    kind.__abstractmethods__ = frozenset()
    return kind()


OWN, OTHERS = backend("own", Own), backend("others", Others)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count=-2", -2),
        ("gain=2", 2.0),
        ("gain=1e-3", 0.001),
        ("spin=false", False),
        ("spin=True", True),
        ("mode=a=b", "a=b"),
        ("mode=", ""),
        ("mode=3", "3"),
        ("limit=none", None),
        ("limit=4", 4),
        ("either=4", 4),
        ("either=four", "four"),
        ("threads=2", 2),
        ("device=cuda:1", "cuda:1"),
    ],
)
def test_text_becomes_the_type_of_the_field(text: str, expected: object) -> None:
    ((name, value),) = read_options([text], [OWN]).items()
    assert name == text.partition("=")[0]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["count"], "--option count: expected NAME=VALUE"),
        (["=1"], "--option =1: expected NAME=VALUE"),
        (["count=1.5"], "--option count=1.5: expected a whole number"),
        (["count="], "--option count=: expected a whole number"),
        (["gain=x"], "--option gain=x: expected a number"),
        (["spin=1"], "--option spin=1: expected true or false"),
        (["limit=x"], "--option limit=x: expected a whole number or none"),
        (["table=1,2"], "--option table: its value cannot be given as text, only in Python"),
        (["count=1", "count=2"], "--option count is given twice; give it once"),
        (
            ["gian=1"],
            "unknown option 'gian'; the own backend has device, threads, count, gain, spin, mode, limit, ",
        ),
        (["provider=cpu"], "the own backend has no option provider; it is for onnxruntime, leave it out"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(texts: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_options(texts, [OWN])
    assert str(caught.value).startswith(told)


def test_of_several_backends_the_first_that_has_an_option_reads_it() -> None:
    assert read_options(["count=1", "license=1"], [OWN, OTHERS]) == {"count": 1, "license": "1"}
    with pytest.raises(UsageError, match=r"unknown option 'x'; the own and others backends have device, "):
        read_options(["x=1"], [OWN, OTHERS])


def test_an_option_is_given_in_one_way_only() -> None:
    typed = {"threads": None, "provider": "cpu"}
    assert with_typed({"threads": 2}, typed) == {"threads": 2, "provider": "cpu"}
    with pytest.raises(UsageError, match="--option provider and --provider are one option; give it once"):
        with_typed({"provider": "cuda"}, typed)


def test_it_reaches_a_built_in_backend(cli, artefact: Path, image: Path, labelled: Path, fails) -> None:
    ran = cli(
        "run", artefact, image, "--option", "spinning=false", "--option", "optimization=basic", "--json"
    )
    assert ran.exit_code == 0, ran.output
    told = fails(2, "run", artefact, image, "--option", "optimization=much")
    assert "optimization" in told and "much" in told
    scored = cli("eval", artefact, "--data", labelled, "--option", "spinning=false")
    assert scored.exit_code == 0, scored.output
    told = fails(2, "eval", artefact, "--data", labelled, "--option", "spinning=no")
    assert told == "--option spinning=no: expected true or false"
    told = fails(2, "bench", artefact, "--option", "cuda_binding=pycuda")
    assert told == "the onnxruntime backend has no option cuda_binding; it is for tensorrt, leave it out"
