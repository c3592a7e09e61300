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

from fcn_deploy.errors import FcnDeployError, ModelError, UsageError
from fcn_deploy.model.checkpoints import load_checkpoint, load_safetensors
from fcn_deploy.model.fcn8s import FCN8s


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
    [b"\0" * 1000, b"hello", bytes(range(256)) * 4],
    ids=["zeros", "text", "noise"],
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


def test_any_name_will_do(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.zip", tiny_state())
    model, info = load_checkpoint(path, variant="fcn8s")
    assert_holds(model, tiny_state())
    assert (info.kind, info.name) == ("checkpoint", "model.zip")


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


def test_a_whole_pickled_module_is_read_as_its_state_dict(tmp_path: Path) -> None:
    """Here a network of ours by chance; tests/model/checkpoints/test_modules.py has others."""
    path = saved(tmp_path / "module.pth", FCN8s(3, width=1, fc_channels=2))
    model, info = load_checkpoint(path, variant="fcn8s")
    assert model.num_classes == 3
    assert info.assumptions[0].startswith(
        "a whole `fcn_deploy.model.fcn8s.FCN8s` was saved; its tensors were"
    )


ODD: dict[str, Any] = {
    "nothing": None,
    "names that are bytes": {b"conv1_1.weight": torch.ones(1)},
    "a number among the tensors": {**tiny_state(), "epoch": 3},
    "complex weights": {**tiny_state(), "fc7.bias": torch.ones(2, dtype=torch.complex64)},
    "booleans": {**tiny_state(), "fc7.bias": torch.ones(2, dtype=torch.bool)},
}


@pytest.mark.parametrize("what", ODD)
def test_odd_content_is_refused_by_name(what: str, tmp_path: Path) -> None:
    with pytest.raises(FcnDeployError, match=r"odd\.pth"):
        load_checkpoint(saved(tmp_path / "odd.pth", ODD[what]), variant="fcn8s")
