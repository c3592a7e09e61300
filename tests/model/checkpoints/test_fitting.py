"""Tensors by our keys that fit a network, and those that do not."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import KEYS, UPSCORES, State, assert_holds, saved, tiny_state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints import load_checkpoint

SIZING = ("conv1_1.weight", "fc6.weight", "score_fr.weight")
"""The channels of a network are read off these."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def refusal(folder: Path, state: State, **options: Any) -> str:
    path = saved(folder / "c.pth", state)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, variant="fcn8s", **options)
    message = str(caught.value)
    assert "c.pth" in message and "\n" not in message
    return message


@given(dropped=st.sets(st.sampled_from(sorted(set(KEYS) - set(UPSCORES))), min_size=1))
@settings(max_examples=20)
def test_missing_keys_are_counted_and_the_first_are_named(dropped: set[str], folder: Path) -> None:
    state = {key: value for key, value in tiny_state().items() if key not in dropped}
    message = refusal(folder, state)
    in_order = [key for key in KEYS if key in dropped]
    assert f"{len(dropped)} missing: {', '.join(in_order[:4])}" in message
    assert "unknown" not in message
    assert "of the wrong shape" not in message, "a key that is there is not to blame"
    assert message.endswith(", ...") == (len(dropped) > 4)


@given(names=st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=8))
@settings(max_examples=20)
def test_unknown_keys_are_counted_and_the_first_are_named(names: set[str], folder: Path) -> None:
    strange = sorted(f"{name}.weight" for name in names)
    message = refusal(folder, {**tiny_state(), **{key: torch.ones(1) for key in strange}})
    assert f"{len(strange)} unknown: {', '.join(strange[:4])}" in message
    assert "missing" not in message and "of the wrong shape" not in message


@given(key=st.sampled_from(sorted(set(KEYS) - set(SIZING))), axis=st.integers(0, 3), more=st.integers(1, 3))
@settings(max_examples=20)
def test_keys_of_the_wrong_shape_are_named_with_both_shapes(
    key: str, axis: int, more: int, folder: Path
) -> None:
    state = tiny_state()
    sound = list(state[key].shape)
    bent = [size + more if i == axis % len(sound) else size for i, size in enumerate(sound)]
    message = refusal(folder, {**state, key: torch.ones(bent)})
    assert f"1 of the wrong shape: {key} {bent} instead of {sound}" in message
    assert "missing" not in message and "unknown" not in message


@pytest.mark.parametrize("key", SIZING)
@pytest.mark.parametrize("shape", [(), (7,), (2, 2), (9, 1, 1, 1), (0, 3, 3, 3)], ids=str)
def test_keys_that_give_the_size_may_have_the_wrong_shape_too(
    key: str, shape: tuple[int, ...], folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"c\.pth"):
        load_checkpoint(
            saved(folder / "c.pth", {**tiny_state(), key: torch.ones(shape)}), variant="fcn8s-same"
        )


def test_all_three_kinds_stand_in_one_message(folder: Path) -> None:
    state = tiny_state()
    state["classifier.weight"] = torch.ones(1)
    del state["conv3_3.bias"]
    state["fc7.weight"] = torch.ones(5, 2, 1, 1)
    message = refusal(folder, state)
    assert "1 unknown: classifier.weight" in message
    assert "1 missing: conv3_3.bias" in message
    assert "1 of the wrong shape: fc7.weight [5, 2, 1, 1] instead of [2, 2, 1, 1]" in message


def test_another_network_is_refused_in_one_sentence(folder: Path) -> None:
    message = refusal(folder, nn.Linear(3, 2).state_dict())
    assert "no known layout" in message and "2 keys begin with weight, bias" in message
    assert "--model" in message, "the way that remains"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_of_a_run_that_diverged_are_refused(value: float, folder: Path) -> None:
    state = tiny_state()
    state["conv4_2.weight"][0, 0, 1, 2] = value
    assert "conv4_2.weight" in refusal(folder, state)


def test_integer_weights_are_refused(folder: Path) -> None:
    state = tiny_state()
    state["fc7.bias"] = torch.ones(2, dtype=torch.int64)
    assert "fc7.bias" in refusal(folder, state)


def test_class_count_must_be_the_one_asked_for(folder: Path) -> None:
    message = refusal(folder, tiny_state(classes=3), num_classes=21)
    assert "3 classes" in message and "21" in message
    path = saved(folder / "d.pth", tiny_state(classes=3))
    assert load_checkpoint(path, variant="fcn8s", num_classes=3)[0].num_classes == 3


@pytest.mark.parametrize("classes", [1, 256])
def test_class_counts_that_labels_cannot_hold_are_refused(classes: int, folder: Path) -> None:
    state = tiny_state()
    for layer in ("score_fr", "score_pool3", "score_pool4"):
        state[f"{layer}.weight"] = torch.ones(classes, *state[f"{layer}.weight"].shape[1:])
        state[f"{layer}.bias"] = torch.ones(classes)
    for key in UPSCORES:
        del state[key]
    assert re.search(f"2 to 255.*{classes}", refusal(folder, state))


def test_missing_upscores_are_the_papers_bilinear_ones(folder: Path) -> None:
    state = tiny_state()
    bare = {key: value for key, value in state.items() if key not in UPSCORES}
    model, _ = load_checkpoint(saved(folder / "e.pth", bare), variant="fcn8s")
    assert_holds(model, state)
    assert not model.learned_upscore


@pytest.mark.parametrize("key", UPSCORES)
def test_upscores_that_are_not_bilinear_are_learned(key: str, folder: Path) -> None:
    state = tiny_state()
    state[key][0, 1, 2, 3] += 0.01
    path = saved(folder / "f.pth", state)
    for stated in (None, True):
        model, _ = load_checkpoint(path, variant="fcn8s", learned_upscore=stated)
        assert model.learned_upscore
        assert_holds(model, state)
    with pytest.raises(ModelError, match=r"f\.pth.*learned"):
        load_checkpoint(path, variant="fcn8s", learned_upscore=False)


def test_bilinear_upscores_are_free_on_request(folder: Path) -> None:
    path = saved(folder / "g.pth", tiny_state())
    assert load_checkpoint(path, variant="fcn8s", learned_upscore=True)[0].learned_upscore
    assert not load_checkpoint(path, variant="fcn8s", learned_upscore=False)[0].learned_upscore
