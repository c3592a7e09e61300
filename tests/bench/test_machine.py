"""What a report says of the machine, and when it warns."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from fcn_deploy.bench.machine import busy_warning, cores_in_use, describe_machine, versions


def test_the_machine_is_described_without_names_of_people_or_hosts() -> None:
    found = describe_machine()
    text = json.dumps(found)
    assert found["cpu"] and found["architecture"] == platform.machine()
    assert 1 <= found["cores_usable"] <= found["cores_total"]
    assert platform.node() not in text or len(platform.node()) < 4
    assert os.path.expanduser("~") not in text


@pytest.mark.parametrize("known", ["cores_in_use", "load_average"])
@pytest.mark.parametrize(
    ("taken", "cores", "threads", "warned"),
    [(0.1, 2, 2, False), (1.4, 2, 2, True), (1.1, 2, 1, False), (6.0, 8, 2, False), (7.0, 8, 2, True)],
)
def test_a_busy_machine_is_warned_of(
    known: str, taken: float, cores: int, threads: int, warned: bool
) -> None:
    machine = {"cores_in_use": None, "load_average": None, "cores_total": cores, known: taken}
    warning = busy_warning(machine, threads)
    assert bool(warning) == warned
    assert warning is None or (f"{taken:.2f}" in warning and "measure again" in warning)


def test_a_load_that_has_ended_is_no_reason_to_warn() -> None:
    assert busy_warning({"cores_in_use": 0.0, "load_average": 9.0, "cores_total": 2}, 2) is None


def test_nothing_known_is_no_reason_to_warn() -> None:
    assert busy_warning({"cores_in_use": None, "load_average": None, "cores_total": 2}, 2) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_work_of_others_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            assert cores_in_use() > 0.3
        finally:
            other.kill()


def test_versions_are_of_what_is_installed() -> None:
    found = versions(("numpy", "no-such-package"))
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert set(found) == {"python", "fcn-deploy", "numpy"}


HOLD = """
import numpy as np
from fcn_deploy.bench.machine import memory_mb
before = memory_mb()
held = np.ones(40_000_000, np.uint8)
after = memory_mb()
assert after[0] - before[0] > 30, (before, after)
assert after[1] >= after[0] and held[0] == 1
"""


def test_memory_grows_with_what_is_held() -> None:
    """In a process of its own: an allocator may hand out what earlier tests have freed."""
    subprocess.run([sys.executable, "-c", HOLD], check=True, timeout=60)
