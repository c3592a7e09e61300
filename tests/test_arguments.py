from __future__ import annotations

import numpy as np
import pytest

from fcn_deploy.arguments import as_integer, as_names, as_size
from fcn_deploy.errors import UsageError


def test_one_name_is_a_list_of_one() -> None:
    assert as_names("labels") == ("labels",)
    assert as_names(["a", "b"]) == as_names(iter("ab")) == ("a", "b")
    assert as_names(None) == ()


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers(value: object) -> None:
    found = as_integer("seed", value, 0)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True, np.float32(1)])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"seed must be a whole number"):
        as_integer("seed", value, 0)


def test_sizes() -> None:
    assert as_size("size", [360, np.int32(480)]) == (360, 480)
    for wrong in (512, (1, 2, 3), "96x96", None):
        with pytest.raises(UsageError, match=r"size must be a height and a width"):
            as_size("size", wrong)
    with pytest.raises(UsageError, match="at least 1"):
        as_size("size", (0, 4))
