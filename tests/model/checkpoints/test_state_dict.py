"""Which of the things in a checkpoint are its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import State, assert_holds, saved, tiny_state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.model.checkpoints import load_checkpoint
from fcn_deploy.model.checkpoints.read import StoredWeights, read


def nested(levels: int, value: Any) -> Any:
    for _ in range(levels):
        value = {"a": value}
    return value


def one(value: float = 1.0, count: int = 3) -> State:
    """A small state_dict whose numbers say which one it is."""
    return {f"layer{i}.weight": torch.full((2, 2), value) for i in range(count)}


def number(found: StoredWeights) -> float:
    return next(iter(found.state.values())).flatten()[0].item()


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
        {"history": nested(20, {"ema": tiny_state(seed=1)})},
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


# Found at any depth


@pytest.mark.parametrize(
    "content",
    [
        {"net": one()},
        {"model": {"state_dict": one()}},
        {"state_dict": one(), "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.0"},
        {"checkpoint": {"best": {"anything": one()}}},
        {"models": [one()]},
        {"models": ({"epoch": 3}, {"weights": one()})},
        [one(), {"epoch": 3}],
        nested(12, one()),
        {"model": None, "weights": one()},
        {1: "a", "network": one(), ("a", 1): 2},
    ],
    ids=[
        *("net", "twice", "lightning", "by no known name", "a list", "a tuple", "at the top a list"),
        *("twelve deep", "a name without weights", "names that are no text"),
    ],
)
def test_a_state_dict_is_found_wherever_it_is(content: Any, tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.pth", content))
    assert set(found.state) == set(one()) and found.assumptions == ()


@settings(max_examples=40, deadline=None)
@given(
    path=st.lists(st.text("abcdefgh", min_size=1, max_size=4).filter(lambda n: "optim" not in n), max_size=12)
)
def test_it_is_found_under_any_names(path: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    content: Any = one(3)
    for name in path:
        content = {name: content, "epoch": 1, "log": [1, 2]}
    file = tmp_path_factory.mktemp("found") / "a.pth"
    assert number(read(saved(file, content))) == 3


CHOICES: dict[str, tuple[Any, float]] = {
    "a usual name before others": ({"generator": one(1, 9), "model": one(2)}, 2),
    "the first of the usual names": ({"net": one(1), "model": one(2), "state_dict": one(3)}, 3),
    "a name near the top": ({"trainer": {"state_dict": one(1)}, "model": one(2)}, 2),
    "the largest": ({"small": one(1, 2), "large": one(2, 5), "medium": one(3, 4)}, 2),
    "the largest, deeper": ({"small": one(1, 2), "below": {"large": one(2, 5)}}, 2),
    "an average last": ({"model_ema": one(1, 9), "student": one(2)}, 2),
    "an average of a usual name last": ({"ema": {"state_dict": one(1, 9)}, "net": one(2)}, 2),
    "an average alone": ({"model_ema": one(1), "epoch": 3}, 1),
    "no average": ({"semantic": one(1, 5), "other": one(2)}, 1),
    "not what an optimizer keeps": (
        {
            "opt": {
                "state": {"0": {"exp_avg": torch.ones(9), "exp_avg_sq": torch.ones(9), "step": torch.ones(1)}}
            },
            "mine": one(2, 1),
        },
        2,
    ),
    "not an optimizer": ({"g_optimizer": {"shadow": one(1, 9)}, "mine": one(2, 1)}, 2),
    "not metrics": ({"metrics": {f"m{i}": torch.tensor(1.0) for i in range(50)}, "mine": one(2, 1)}, 2),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_where_several_are_there_one_is_chosen(kind: str, tmp_path: Path) -> None:
    content, expected = CHOICES[kind]
    assert number(read(saved(tmp_path / "a.pth", content))) == expected


def test_the_largest_of_several_without_a_known_name_is_said_to_be_a_choice(tmp_path: Path) -> None:
    content = {"encoder": one(1, 5), "decoder": one(2, 2), "critic": {"a": torch.ones(1)}}
    (said,) = read(saved(tmp_path / "a.pth", content)).assumptions
    assert said == (
        "took the weights under 'encoder', the largest set; 'decoder' and 'critic' hold other sets of "
        "weights, which were not used"
    )


def test_very_many_sets_are_counted(tmp_path: Path) -> None:
    (said,) = read(
        saved(tmp_path / "a.pth", {f"part{i}": one(1, 1 + (i == 3)) for i in range(30)})
    ).assumptions
    assert said.startswith("took the weights under 'part3', the largest set; 'part0', 'part1', ")
    assert said.endswith(" and 23 more places hold other sets of weights, which were not used")


# Chosen by key


def several() -> dict[str, Any]:
    return {
        "model": one(1),
        "ema": {"decay": 0.9, "shadow": one(2)},
        "swa": {"n_averaged": 3, **one(3)},
        "torch_ema": {"shadow_params": list(one(4).values())},
        "runs": [one(5), one(6)],
    }


@pytest.mark.parametrize(
    ("key", "expected"), [("model", 1), ("ema.shadow", 2), ("swa", 3), ("runs.0", 5), ("runs.1", 6)]
)
def test_a_key_chooses(key: str, expected: float, tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.pth", several()), key)
    assert number(found) == expected and set(found.state) == set(one())
    assert found.assumptions[0].startswith(f"took the weights under {key!r}, as given")


def test_what_is_no_tensor_under_a_key_is_left_out_and_said(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.pth", several()), "swa")
    assert found.assumptions == (
        "took the weights under 'swa', as given; left out n_averaged, which are no tensors",
    )


@pytest.mark.parametrize("key", ["ema", "shadow", "emo.shadow", "", ".", "optimizer", "model.layer0.weight"])
def test_a_wrong_key_lists_those_that_there_are(key: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read(saved(tmp_path / "a.pth", several()), key)
    assert f"a.pth holds no weights under {key!r}" in str(caught.value)
    assert "it holds them under 'model', 'swa', 'ema.shadow', 'runs.0', 'runs.1'" in str(caught.value)


def test_a_list_without_names_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'torch_ema.shadow_params' is a list of tensors without names"):
        read(saved(tmp_path / "a.pth", several()), "torch_ema.shadow_params")


def test_a_key_for_bare_weights_is_to_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'model'; it holds them at its top; leave the key out"):
        read(saved(tmp_path / "a.pth", one()), "model")


def test_a_key_for_safetensors_is_wrong_use(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(one(), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="holds one set of weights; leave the key out"):
        read(tmp_path / "a.safetensors", "model")


def test_load_checkpoint_passes_the_key_on(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", model_and(ema={"shadow": tiny_state(seed=1)}))
    model, info = load_checkpoint(path, variant="fcn8s", key="ema.shadow")
    assert_holds(model, tiny_state(seed=1))
    assert info.assumptions[0] == "took the weights under 'ema.shadow', as given"
    assert info.link()["key"] == "ema.shadow"
    assert "key" not in load_checkpoint(path, variant="fcn8s")[1].link()


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    content = {"model": one(1), "ema\x1b[2J\n": one(2)}
    (said,) = read(saved(tmp_path / "a.pth", content)).assumptions
    assert said.isprintable()


def test_parameters_are_plain_tensors(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.pth", dict(nn.Linear(2, 3).named_parameters())))
    assert {type(value) for value in found.state.values()} == {Tensor}
    assert not any(value.requires_grad for value in found.state.values())
