"""What the tests of this folder share; its helper modules lie beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from media import write_video


@pytest.fixture(scope="session")
def cv2() -> Any:
    return pytest.importorskip("cv2")


@pytest.fixture(scope="session")
def video(cv2: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MP4 of ``media.FRAMES`` frames."""
    return write_video(cv2, tmp_path_factory.mktemp("video") / "clip.mp4", "mp4v")
