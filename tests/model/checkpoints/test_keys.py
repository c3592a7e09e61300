"""Keys that do not fit are listed in one message, the first few of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.keys import refuse_keys, refuse_names

FILE = Path("w.pth")
EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "steps": torch.zeros((), dtype=torch.int64)}


def told(state: dict[str, torch.Tensor], **options: bool) -> str:
    with pytest.raises(ModelError) as caught:
        refuse_keys(FILE, state, EXPECTED, "net", **options)
    return str(caught.value)


def test_what_fits_is_not_refused() -> None:
    refuse_keys(FILE, dict(EXPECTED), EXPECTED, "net")


def test_all_kinds_in_one_sentence() -> None:
    state = {"a": torch.zeros(3, 2), "c": torch.zeros(1), "steps": EXPECTED["steps"]}
    assert told(state) == (
        "w.pth does not fit net: 1 unknown: c; 1 missing: b; 1 of the wrong shape: a [3, 2] instead of [2, 3]"
    )


def test_the_first_four_and_how_many_there_are() -> None:
    state = {**EXPECTED, **{f"x{i}": torch.zeros(1) for i in range(9)}}
    assert told(state) == "w.pth does not fit net: 9 unknown: x0, x1, x2, x3, ..."


def test_where_sizes_are_not_known_the_dimensions_still_count() -> None:
    refuse_keys(FILE, {**EXPECTED, "a": torch.zeros(7, 7)}, EXPECTED, "net", sized=False)
    assert "a [7] instead of [2, 3]" in told({**EXPECTED, "a": torch.zeros(7)}, sized=False)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none(value: float) -> None:
    assert told({**EXPECTED, "b": torch.full((4,), value)}) == (
        "w.pth: b holds NaN or infinite values; the training run diverged"
    )


def test_whole_numbers_where_weights_are_expected_and_nowhere_else() -> None:
    assert "b holds torch.int32" in told({**EXPECTED, "b": torch.zeros(4, dtype=torch.int32)})


def test_names_alone() -> None:
    refuse_names(FILE, ["a", "b"], ["b", "a"], "net")
    with pytest.raises(ModelError, match=r"w\.pth does not fit net: 1 unknown: c; 1 missing: b"):
        refuse_names(FILE, ["a", "c"], ["a", "b"], "net")
