"""Options of sources are checked."""

from __future__ import annotations

import pytest

from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotate": 45},
        {"pace": "slow"},
        {"transport": "quic"},
        {"size": (0, 640)},
        {"size": (480,)},
        {"pixel_format": "MJPEG"},
        {"decoder_threads": 0},
        {"fps": 0},
        {"read_timeout": float("nan")},
        {"open_timeout": -1},
        {"give_up": float("inf")},
    ],
    ids=str,
)
def test_options_outside_their_range_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SourceOptions(**wrong)
