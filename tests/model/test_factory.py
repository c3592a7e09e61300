"""Factories that a user names: what is found, what is called, and what a wrong one is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from fcn_deploy.errors import FcnDeployError, ModelError, UsageError
from fcn_deploy.model.factory import build_module, short_factory

CODE = """
import argparse, dataclasses, sys
from torch import nn
import neighbour

@dataclasses.dataclass
class Settings:
    width: int = 2

class Net(nn.Conv2d):
    def __init__(self, channels=4):
        super().__init__(3, channels, 1)

class Group:
    make = staticmethod(lambda: Net(7))

def plain(): return Net()
def wider(): return Net(neighbour.CLASSES)
def dataclass(): return Net(Settings().width)
def needs(channels): return Net(channels)
def listed(): return [Net()]
def raises(): raise FileNotFoundError("weights.pth is not here\\nlong story")
def ends(): sys.exit("usage: train.py [-h] DATA")
ready = Net(5)
number = 3
_hidden = plain
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("CLASSES = 6\n")
    path = tmp_path / "my nets.py"
    path.write_text(CODE)
    yield path
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("plain", 4),
        ("Net", 4),
        ("wider", 6),
        ("dataclass", 2),
        ("Group.make", 7),
        ("ready", 5),
        ("_hidden", 4),
    ],
)
def test_what_is_called(file: Path, name: str, channels: int) -> None:
    """A function, a class, one that imports a file beside it, a method, a module that is built already."""
    module = build_module(f"{file}:{name}")
    assert isinstance(module, nn.Module) and module.out_channels == channels


def test_an_installed_module() -> None:
    assert type(build_module("torch.nn:Identity")) is nn.Identity


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_here.py").write_text("from torch import nn\nmake = nn.ReLU\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_here", raising=False)
    assert type(build_module("mine_here:make")) is nn.ReLU
    assert type(build_module("mine_here.py:make")) is nn.ReLU


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("{file}", "expected package.module:function or file.py:function"),
        (":plain", "expected package.module:function"),
        ("{file}:", "expected package.module:function"),
        ("{folder}/none.py:plain", "there is no file .*none.py"),
        ("no_such_package.nets:plain", r"cannot be imported \(ModuleNotFoundError: No module named 'no_such"),
        ("{file}:nothing", "no function nothing in .*; it has Settings, Net, Group, plain, wider"),
        ("{file}:number", "there is no function number"),
        ("{file}:Group.none", "there is no function Group.none"),
        ("{file}:needs", r"without arguments \(missing a required argument: 'channels'\); name a function"),
        ("{folder}/broken.py:plain", r"broken.py cannot be imported \(SyntaxError: "),
        ("{folder}/script.py:plain", r"script.py ends the program while it is imported; put what it runs"),
    ],
)
def test_a_name_that_is_wrong(file: Path, factory: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "broken.py").write_text("def plain(:\n")
    (file.parent / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args()\n")
    monkeypatch.setattr(sys, "argv", ["fcn-deploy", "export", "--model", "x"])
    before = set(sys.modules)
    with pytest.raises(UsageError, match=told) as caught:
        build_module(factory.format(file=file, folder=file.parent))
    assert "\n" not in str(caught.value)
    assert not [name for name in set(sys.modules) - before if "broken" in name or "script" in name]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("listed", "my nets.py:listed returned list; a torch.nn.Module is expected"),
        ("Settings", "returned Settings; a torch.nn.Module"),
        ("raises", r"raises failed \(FileNotFoundError: weights.pth is not here\)$"),
        ("ends", r"ends failed \(SystemExit: usage: train.py \[-h\] DATA\)"),
    ],
)
def test_a_factory_that_makes_no_module(file: Path, name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build_module(f"{file}:{name}")


def test_the_import_path_is_what_it_was(file: Path) -> None:
    before = list(sys.path)
    build_module(f"{file}:plain")
    with pytest.raises(FcnDeployError):
        build_module(f"{file}:raises")
    assert sys.path == before


@pytest.mark.parametrize(
    ("factory", "short"),
    [("some/folder/nets.py:make", "nets.py:make"), ("package.nets:make", "package.nets:make")],
)
def test_a_description_names_no_folder(factory: str, short: str) -> None:
    assert short_factory(factory) == short
