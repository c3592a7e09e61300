"""Prefixes, counters, losses and other types of numbers: taken off, left out, converted, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_files import State, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.read import read
from fcn_deploy.model.checkpoints.tidying import without_prefix
from fcn_deploy.spec import METADATA_KEY

WORDS = ("module.", "model.", "net.", "_orig_mod.", "network.")


def weights(prefix: str = "") -> State:
    return {f"{prefix}backbone.conv.weight": torch.ones(2, 2), f"{prefix}classifier.0.bias": torch.ones(2)}


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
def test_words_before_all_names_are_taken_off_and_said(words: list[str], tmp_path_factory) -> None:
    prefix = "".join(words)
    found = read(saved(tmp_path_factory.mktemp("t") / "a.pth", weights(prefix)))
    assert set(found.state) == set(weights()) and found.prefix == prefix
    assert found.assumptions == (f"took {prefix!r} off the names of all weights",)


@pytest.mark.parametrize(
    "names",
    [
        ["backbone.a", "backbone.b"],
        ["module.a", "b"],
        ["model.a", "net.a"],
        ["models.a", "models.b"],
        ["module", "module.a"],
        ["features.0.weight"],
    ],
)
def test_other_names_stay(names: list[str]) -> None:
    state = {name: torch.ones(1) for name in names}
    assert without_prefix(state) == (state, "")


class Averaged(nn.Module):
    """As torch.optim.swa_utils.AveragedModel and a training module with its loss keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
        self.register_buffer("n_averaged", torch.tensor(3))


def test_counters_are_left_out_and_said(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.pth", Averaged().state_dict()))
    assert set(found.state) == {k for k in Averaged().module.state_dict() if "tracked" not in k}
    assert found.assumptions == (
        "took 'module.' off the names of all weights",
        "left out 1 n_averaged and 2 num_batches_tracked, which inference does not need",
    )


@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
@pytest.mark.parametrize(
    "loss", ["criterion.weight", "criterion.0.weight", "loss.weight", "loss_fn.pos_weight"]
)
def test_weights_of_the_loss_are_left_out_and_said(loss: str, prefix: str, tmp_path: Path) -> None:
    for name in (f"{prefix}{loss}", loss):  # inside of the wrapper, and beside it
        found = read(saved(tmp_path / "a.pth", {**weights(prefix), name: torch.ones(3)}))
        assert set(found.state) == set(weights())
        assert "left out 1 of the loss, which inference does not need" in found.assumptions


@pytest.mark.parametrize("name", ["head.loss.weight", "lossless.conv", "criterion", "num_batches_tracked.x"])
def test_other_names_with_such_words_stay(name: str, tmp_path: Path) -> None:
    assert name in read(saved(tmp_path / "a.pth", {**weights(), name: torch.ones(3)})).state


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.pth", {"criterion.weight": torch.ones(3), "bn.num_batches_tracked": torch.tensor(3)}
    )
    with pytest.raises(ModelError, match=r"a\.pth holds counters and weights of a loss, and no weights"):
        read(path)


@pytest.mark.parametrize(
    ("dtype", "word"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")]
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_floats_become_float32_and_that_is_said(dtype, word: str, suffix: str, tmp_path: Path) -> None:
    state, path = {name: value.to(dtype) for name, value in weights().items()}, tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = read(path)
    assert {value.dtype for value in found.state.values()} == {torch.float32}
    assert found.assumptions == (f"weights are stored as {word}; they are used as float32",)


def test_nothing_is_said_of_plain_float32_and_of_our_own_files(tmp_path: Path) -> None:
    assert read(saved(tmp_path / "a.pth", weights())).assumptions == ()
    half = {name: value.half() for name, value in weights("module.").items()}
    safetensors.torch.save_file(half, tmp_path / "own", metadata={METADATA_KEY: "{}"})
    assert read(tmp_path / "own").assumptions == ()


def test_integers_and_booleans_stay(tmp_path: Path) -> None:
    more = {"table": torch.arange(3), "mask": torch.tensor([True, False])}
    found = read(saved(tmp_path / "a.pth", {**weights(), **more})).state
    assert found["table"].dtype == torch.int64 and found["mask"].dtype == torch.bool


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage", "ignore:.*[sS]parse")
@pytest.mark.parametrize("kind", ["complex", "quantised", "sparse", "meta"])
def test_tensors_that_are_not_plain_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    make = {
        "complex": lambda: torch.ones(2, dtype=torch.complex64),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "meta": lambda: torch.ones(2, device="meta"),
    }
    path = saved(tmp_path / "a.pth", {**weights(), "fc7.bias": make[kind]()})
    with pytest.raises(ModelError, match=rf"a\.pth: fc7\.bias is .*{kind}"):
        read(path)


def test_weights_that_repeat_a_few_bytes_are_refused(tmp_path: Path) -> None:
    """A file of some hundred bytes that would take 4 TB."""
    path = saved(tmp_path / "a.pth", {"a.weight": torch.ones(1).expand(1 << 40)})
    with pytest.raises(ModelError, match="more weights than its size allows"):
        read(path)


def test_views_and_shared_weights_are_as_they_were(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "b": base.T, "c": base[1:, 1], "d": base.to(memory_format=torch.contiguous_format)}
    found = read(saved(tmp_path / "a.pth", state)).state
    for name, value in state.items():
        assert torch.equal(found[name], value) and found[name].is_contiguous()
