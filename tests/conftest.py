"""What every test shares: bounded threads, the real frames, and what is skipped where."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import hypothesis
import pytest

# Two are enough for the tiny models here, and numeric libraries read this only once, on import.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "2")

# Where the tests run in the background of a script, Ctrl-C is ignored and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CAMVID = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"

# The first example of a test often pays for a lazy import, so time says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The folder with ``train/``, ``trainannot/``, ``val/`` and ``valannot/`` of CamVid."""
    if not CAMVID.is_dir():
        pytest.skip("the CamVid frames are not beside the repository (shared/data/camvid)")
    return CAMVID


@pytest.fixture(scope="session")
def python310() -> str:
    """A Python 3.10: ``python3.10`` on PATH, or what PYTHON310 names."""
    found = shutil.which(os.environ.get("PYTHON310", "python3.10"))
    if not found or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip("no python3.10 on PATH (set PYTHON310 to one)")
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("camvid") and not CAMVID.is_dir():
        pytest.skip("the CamVid frames are not beside the repository (shared/data/camvid)")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("no NVIDIA GPU here")


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
