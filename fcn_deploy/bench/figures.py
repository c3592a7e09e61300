"""Figures as text, the same wherever a result is shown."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three digits, because a fourth would differ in the next run; empty for None."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def share(value: float | None) -> str:
    """Percent, rounded down, so that 100 % means every single label."""
    if value is None:
        return "unknown"
    return "100 %" if value == 1 else f"{math.floor(value * 1e5) / 1e3:.3f} %"
