"""What every backend accepts, whatever its library."""

from __future__ import annotations

import pytest

from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.backend import BackendOptions


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threads": 0}, "threads must be a whole number of at least 1, not 0"),
        ({"device": "gpu"}, "unknown device 'gpu'; choose cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"device": "cpu:0"}, "unknown device 'cpu:0'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        BackendOptions(**options)


@pytest.mark.parametrize("options", [{}, {"device": "cuda:12"}, {"device": "cpu", "threads": 1}])
def test_options_in_range_pass(options: dict[str, object]) -> None:
    BackendOptions(**options)
