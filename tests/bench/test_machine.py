"""What a report says of the machine, and when it warns."""

from __future__ import annotations

import json
import os
import platform

import numpy as np
import pytest

from fcn_deploy.bench.machine import busy, describe_machine, memory_mb, versions


def test_the_machine_is_described_without_names_of_people_or_hosts() -> None:
    found = describe_machine()
    text = json.dumps(found)
    assert found["cpu"] and found["architecture"] == platform.machine()
    assert 1 <= found["cores_usable"] <= found["cores_total"]
    assert platform.node() not in text or len(platform.node()) < 4
    assert os.path.expanduser("~") not in text


@pytest.mark.parametrize(
    ("load", "cores", "threads", "warned"),
    [
        (0.1, 2, 2, False),
        (1.4, 2, 2, True),
        (1.4, 2, 1, False),
        (6.0, 8, 2, False),
        (7.0, 8, 2, True),
        (None, 2, 2, False),
    ],
)
def test_a_busy_machine_is_warned_of(load: float | None, cores: int, threads: int, warned: bool) -> None:
    warning = busy(load, cores, threads)
    assert bool(warning) == warned
    if warning:
        assert f"{load:.2f}" in warning and "measure again" in warning


def test_versions_are_of_what_is_installed() -> None:
    found = versions(("numpy", "no-such-package"))
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert set(found) == {"python", "fcn-deploy", "numpy"}


def test_memory_grows_with_what_is_held() -> None:
    before = memory_mb()
    assert before is not None
    held = np.ones(40_000_000, np.uint8)
    after = memory_mb()
    assert after is not None
    assert after[0] - before[0] > 30
    assert after[1] >= after[0] and held[0] == 1
