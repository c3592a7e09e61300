"""Makes the helpers of this folder importable, and comparisons quick."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_FEW = ((1, 1, 1), (1, 31, 33), (3, 20, 24), (1, 64, 96))


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity at four small sizes: tiny, odd, a batch, a multiple of 32."""
    monkeypatch.setattr("fcn_deploy.export.parity.PARITY_SIZES", _FEW)
