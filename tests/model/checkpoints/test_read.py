"""Reading a checkpoint file, and everything that a file may be instead."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_files import assert_holds, saved, tiny_state
from torch import nn

from fcn_deploy.errors import FcnDeployError, ModelError, UsageError
from fcn_deploy.model.checkpoints import load_checkpoint, load_safetensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in tiny_state().items()}
    model, _ = load_checkpoint(saved(tmp_path / "half.pt", state), variant="fcn8s")
    assert_holds(model, state)


def test_old_pickle_format_of_torch_loads(tmp_path: Path) -> None:
    state = tiny_state()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model, _ = load_checkpoint(tmp_path / "old.pth", variant="fcn8s")
    assert_holds(model, state)


def truncated(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_files_are_incomplete(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(tiny_state(), path)
    else:
        safetensors.torch.save_file(tiny_state(), path)
    with pytest.raises(ModelError, match=rf"cut{re.escape(suffix)} is not a complete.*copy it again"):
        load_checkpoint(truncated(path, share), variant="fcn8s")


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_old_pickles_are_incomplete(share: float, tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "cut.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"cut\.pth is not a complete.*copy it again"):
        load_checkpoint(truncated(tmp_path / "cut.pth", share), variant="fcn8s")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "data",
    [b"<!DOCTYPE html><html><body>404</body></html>", b"\0" * 1000, b"hello", bytes(range(256)) * 4],
    ids=["a web page", "zeros", "text", "noise"],
)
def test_files_that_are_no_checkpoint_at_all(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"wrong{re.escape(suffix)} is not a complete"):
        load_checkpoint(path, variant="fcn8s")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_zero_bytes_missing_files_and_folders_are_wrong_use(suffix: str, tmp_path: Path) -> None:
    empty, folder = tmp_path / f"empty{suffix}", tmp_path / f"folder{suffix}"
    empty.touch()
    folder.mkdir()
    cases = ((empty, "empty"), (folder, "folder"), (tmp_path / f"none{suffix}", "does not exist"))
    for path, reason in cases:
        for load in (load_safetensors, lambda p: load_checkpoint(p, variant="fcn8s")):
            with pytest.raises(UsageError, match=rf"{re.escape(path.name)}.*{reason}"):
                load(path)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.zip", tiny_state())
    with pytest.raises(UsageError, match=r"model\.zip.*\.safetensors, \.pth"):
        load_checkpoint(path, variant="fcn8s")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2, 3], "a list"),
        (torch.ones(3), "a Tensor"),
        ({}, "(none)"),
        ({"epoch": 3, "optimizer": {}}, "epoch, optimizer"),
        ({"model_state_dict": {}}, "(none)"),
        ({0: torch.ones(2)}, "0"),
    ],
    ids=["list", "tensor", "nothing", "no weights", "empty state_dict", "numbers for names"],
)
def test_what_holds_no_state_dict_says_what_it_holds(content: Any, found: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.pth", content)
    with pytest.raises(ModelError, match=rf"odd\.pth does not hold a state_dict.*{re.escape(found)}"):
        load_checkpoint(path, variant="fcn8s")


class Trap:
    """Unpickled, it creates a file: what a hostile checkpoint does with less kindness."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", ["beside", "inside", "alone", "raw protocol 2", "raw protocol 4"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(place: str, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "hostile.pth"
    trap = Trap(sprung)
    if place.startswith("raw"):
        path.write_bytes(pickle.dumps(trap, protocol=int(place[-1])))
    else:
        content = {
            "beside": {"model_state_dict": tiny_state(), "config": trap},
            "inside": {**tiny_state(), "conv1_1.weight": trap},
            "alone": trap,
        }[place]
        torch.save(content, path)

    with pytest.raises(ModelError, match=r"hostile\.pth .*not loaded.*run any code"):
        load_checkpoint(path, variant="fcn8s")
    assert not sprung.exists()

    pickle.loads(pickle.dumps(trap))
    assert sprung.exists(), "the trap works where nobody looks"


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "module.pth", nn.Conv2d(1, 1, 1))
    with pytest.raises(ModelError, match=r"module\.pth .*state_dict"):
        load_checkpoint(path, variant="fcn8s")


ODD: dict[str, Any] = {
    "nothing": None,
    "wrapped twice": {"model": {"model_state_dict": tiny_state()}},
    "names that are bytes": {b"conv1_1.weight": torch.ones(1)},
    "a number among the tensors": {**tiny_state(), "epoch": 3},
    "complex weights": {**tiny_state(), "fc7.bias": torch.ones(2, dtype=torch.complex64)},
    "booleans": {**tiny_state(), "fc7.bias": torch.ones(2, dtype=torch.bool)},
}


@pytest.mark.parametrize("what", ODD)
def test_odd_content_is_refused_by_name(what: str, tmp_path: Path) -> None:
    with pytest.raises(FcnDeployError, match=r"odd\.pth"):
        load_checkpoint(saved(tmp_path / "odd.pth", ODD[what]), variant="fcn8s")


# Several sets of weights in one file


def model_and(**others: Any) -> dict[str, Any]:
    momenta = {key: {"exp_avg": torch.zeros_like(v)} for key, v in tiny_state().items()}
    optimizer = {"state": momenta, "param_groups": [{"lr": 0.1}], "exp_avg": tiny_state(seed=9)}
    return {"epoch": 3, "model": tiny_state(), "optimizer": optimizer, "config": {"a": 1}, **others}


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"ema": tiny_state(seed=1)}, "'ema' holds another set of weights, which was not used"),
        (
            {"state_dict_ema": {f"module.{k}": v for k, v in tiny_state(seed=1).items()}},
            "'state_dict_ema' holds another set of weights, which was not used",
        ),
        (
            {"ema": {"decay": 0.999, "shadow": tiny_state(seed=1)}},
            "'ema.shadow' holds another set of weights, which was not used",
        ),
        (
            {"teacher": tiny_state(seed=1), "model_ema": tiny_state(seed=2), "swa": tiny_state(seed=3)},
            "'teacher', 'model_ema' and 'swa' hold other sets of weights, which were not used",
        ),
        (
            {"ema": {"decay": 0.999, "num_updates": 5, "shadow_params": list(tiny_state(seed=1).values())}},
            "'ema.shadow_params' holds another set of weights, which was not used",
        ),
        (
            {"callbacks": {"EMA": {"state": tiny_state(seed=1)}, "Stopping": {"best": torch.ones(1)}}},
            "'callbacks.EMA.state' holds another set of weights, which was not used",
        ),
        (
            {"trainer": {"ModelAverage": {f"net.{k}": v for k, v in tiny_state(seed=1).items()}}},
            "'trainer.ModelAverage' holds another set of weights, which was not used",
        ),
        (
            {"averages": [{"beta": 0.9, "weights": tiny_state(seed=1)}]},
            "'averages.0.weights' holds another set of weights, which was not used",
        ),
        (
            {"ema": {"decay": 0.999, **tiny_state(seed=1)}},
            "'ema' holds another set of weights, which was not used",
        ),
    ],
    ids=[
        *("ema", "wrapped keys", "nested", "three", "torch-ema", "a callback", "keys of its own"),
        *("in a list", "beside numbers"),
    ],
)
def test_other_sets_of_weights_are_named_and_not_used(others, told: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", model_and(**others))
    model, info = load_checkpoint(path, variant="fcn8s")
    assert_holds(model, tiny_state())
    assert info.assumptions[0] == f"took the weights under 'model'; {told}"


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"criterion": {"weight": torch.ones(3)}},
        {"discriminator": nn.Linear(3, 2).state_dict()},
        {"ema": {}},
        {"ema": {"decay": 0.999}},
        {"other": tiny_state(channels=2, fc=3, classes=5)},
        {"avg": {"loss": torch.ones(()), "iou": torch.ones(())}, "running_average": [torch.ones(1)]},
        {"semantic": {"head": {"weight": torch.ones(3, 3)}}},
        {"params": list(tiny_state(seed=1).values())},
        {"trainer": {"optimizers": [{"exp_avg": tiny_state(seed=1)}]}},
        {"history": {"a": {"b": {"c": {"ema": tiny_state(seed=1)}}}}},
    ],
    ids=[
        *("nothing", "loss", "another network", "empty", "no tensors", "other shapes", "averages of metrics"),
        *("another head", "a list without a name", "an optimizer below", "too deep"),
    ],
)
def test_what_is_no_other_set_of_these_weights_is_not_mentioned(others, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", model_and(**others))
    model, info = load_checkpoint(path, variant="fcn8s")
    assert_holds(model, tiny_state())
    assert len(info.assumptions) == 1 and info.assumptions[0].startswith("variant fcn8s")


def test_a_file_that_holds_one_list_often_is_read_once(tmp_path: Path) -> None:
    nested: list[Any] = [1]
    for _ in range(4):
        nested = [nested] * 1000
    path = saved(tmp_path / "mine.pth", model_and(history=nested))
    model, _ = load_checkpoint(path, variant="fcn8s")
    assert_holds(model, tiny_state())


def test_two_known_wrappers_say_which_one_was_taken(tmp_path: Path) -> None:
    content = {"model": tiny_state(seed=1), "model_state_dict": tiny_state()}
    model, info = load_checkpoint(saved(tmp_path / "mine.pth", content), variant="fcn8s")
    assert_holds(model, tiny_state())
    assert info.assumptions[0].startswith("took the weights under 'model_state_dict'; 'model' holds another")
