"""Which TensorRT is imported, and what is said where it is not there."""

from __future__ import annotations

import sys
import types

import pytest

from fcn_deploy import lazy
from fcn_deploy.errors import MissingDependency, UsageError


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that count as installed; each is an empty module."""
    names: set[str] = set()
    monkeypatch.setattr(lazy, "installed", lambda name: name in names)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return names


@pytest.mark.parametrize(
    ("there", "flavor", "taken"),
    [
        (("tensorrt", "tensorrt_rtx"), "auto", "tensorrt"),
        (("tensorrt_rtx",), "auto", "tensorrt_rtx"),
        (("tensorrt", "tensorrt_rtx"), "rtx", "tensorrt_rtx"),
        (("tensorrt", "tensorrt_rtx"), "tensorrt", "tensorrt"),
    ],
)
def test_the_flavor_that_is_taken(packages: set[str], there: tuple[str], flavor: str, taken: str) -> None:
    packages.update(there)
    assert lazy.import_tensorrt(flavor).__name__ == taken


@pytest.mark.parametrize(
    ("there", "flavor", "told"),
    [
        ((), "auto", "neither tensorrt nor tensorrt_rtx is installed"),
        (
            ("tensorrt",),
            "rtx",
            r"tensorrt_rtx is not installed; run: pip install 'fcn-deploy\[tensorrt-rtx\]'",
        ),
        (("tensorrt_rtx",), "tensorrt", "tensorrt is not installed.*JetPack"),
    ],
)
def test_what_is_missing_is_named(packages: set[str], there: tuple[str], flavor: str, told: str) -> None:
    packages.update(there)
    with pytest.raises(MissingDependency, match=told):
        lazy.import_tensorrt(flavor)


def test_one_that_does_not_load_gives_way_to_one_that_does(
    packages: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages.update(("tensorrt", "tensorrt_rtx"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert lazy.import_tensorrt().__name__ == "tensorrt_rtx"
    packages.remove("tensorrt_rtx")
    with pytest.raises(MissingDependency, match="tensorrt is"):
        lazy.import_tensorrt()


def test_another_flavor_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="choose from auto, tensorrt, rtx"):
        lazy.import_tensorrt("xla")
