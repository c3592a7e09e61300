"""Files of torch.save with more in them than tensors."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import saved, tiny_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn_deploy.errors import FcnDeployError, ModelError
from fcn_deploy.model.checkpoints import pickled
from fcn_deploy.model.checkpoints.read import read


class Config:
    """A class of the training script."""


HARMLESS: dict[str, Any] = {
    "numpy scalar": np.float64(0.65),
    "numpy integer": np.int64(3),
    "numpy array": np.arange(6.0).reshape(2, 3),
    "numpy dtype": np.dtype("float32"),
    "array of objects": np.array([None, "a"], dtype=object),
    "record": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8")]),
    "random state": np.random.RandomState(0).get_state(),
    "Namespace": argparse.Namespace(lr=0.1, data=pathlib.Path("data"), nested=argparse.Namespace()),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "defaultdict": defaultdict(list, a=[1]),
    "Counter": Counter("abca"),
    "OrderedDict": OrderedDict(a=1),
    "path": pathlib.Path("data") / "train",
    "time": datetime.datetime(2020, 1, 2, 3, 4) + datetime.timedelta(hours=1),
    "set": {1, 2},
    "tuple as a key": {(0, 0, 0): "road"},
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
    "complex": 1 + 2j,
    "bytes": b"abc",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("what", HARMLESS)
def test_what_training_scripts_store_beside_weights_is_no_trouble(
    what, zipped, protocol, tmp_path: Path
) -> None:
    content = {"best": HARMLESS[what], "model_state_dict": tiny_state()}
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(content, tmp_path / "mine.pth", **options)
    found = read(tmp_path / "mine.pth")
    assert found.assumptions == ()
    for key, value in tiny_state().items():
        assert torch.equal(found.state[key], value), key


def test_weights_under_a_defaultdict_are_found(tmp_path: Path) -> None:
    content = defaultdict(dict)
    content["model"] = tiny_state()
    assert len(read(saved(tmp_path / "a.pth", content)).state) == len(tiny_state())


def test_nothing_is_constructed_of_what_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither numpy's own functions nor Namespace: the file could give them anything."""
    content = {"model": tiny_state(), "args": argparse.Namespace(a=1), "best": np.float64(1)}
    path = saved(tmp_path / "a.pth", content)
    kept: list[Any] = []
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: kept.append(original(*a, **k)) or kept[-1])
    read(path)
    (loaded,) = kept
    assert {type(loaded[name]) for name in ("args", "best")} == {pickled._Skipped}


def test_what_is_allowed_is_allowed_for_this_file_only(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read(saved(tmp_path / "a.pth", {"model": tiny_state(), "args": argparse.Namespace(a=1)}))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_any_other_class_is_named_and_refused(zipped: bool, tmp_path: Path) -> None:
    content = {"model": tiny_state(), "config": Config(), "best": np.float64(1)}
    torch.save(content, tmp_path / "mine.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError) as caught:
        read(tmp_path / "mine.pth")
    message = str(caught.value)
    assert f"was not loaded: it holds a `{Config.__module__}.Config`, and" in message
    assert 'torch.load("mine.pth", weights_only=False); torch.save(checkpoint["model"]' in message
    assert "\n" not in message and "numpy" not in message


class HistoryBuffer:
    """As mmengine keeps a log: values, and a table of its own methods."""

    def __init__(self) -> None:
        self.values, self.methods = np.arange(3.0), {"mean": self.mean}

    def mean(self) -> float:
        raise AssertionError("nothing of it is called")


def test_the_logs_of_mmengine_stay_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mmengine.logging.history_buffer"
    for package in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    sys.modules[name].HistoryBuffer = HistoryBuffer
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    state, logs = tiny_state(), {"train/loss": HistoryBuffer()}
    path = saved(tmp_path / "epoch_1.pth", {"message_hub": {"logs": logs}, "state_dict": state})
    assert read(path).state.keys() == state.keys()


def test_many_classes_are_counted(tmp_path: Path) -> None:
    content = [Config(), pickle.Pickler, ValueError("a"), print, KeyError("b")]
    with pytest.raises(ModelError, match=r"a `builtins.ValueError` and 2 more, and"):
        read(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_others_are_not_loaded(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"conv1_1.weight": np.ones(3)}, protocol))
    with pytest.raises(
        ModelError, match=r"model\.pkl is a pickle that torch.save did not write, and was not"
    ):
        read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject, zipped: bool, tmp_path: Path) -> None:
    """Whatever bytes change, nothing but our own errors comes out."""
    content = {
        "model": {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)},
        "args": argparse.Namespace(a=1),
    }
    path = tmp_path / "damaged.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        read(path)
    except FcnDeployError as exc:
        assert "damaged.pth" in str(exc)
