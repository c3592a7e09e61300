"""A bar chart as inline SVG, in the colours of the page around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 720
_BAR = 18
_STEP = 46
_ROOM = 120
"""Right of the longest line, for its figures."""


@dataclass(frozen=True)
class Bar:
    """One row of the chart."""

    label: str
    value: float
    """Length of the bar, above 0."""
    far: float
    """Where the thin line ends; at least ``value``."""
    caption: str
    """Written at the end of the line."""
    marked: bool = False
    """Drawn in the second colour."""


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero, each with a thin line to a second value.

    Args:
        title: what the chart shows, for readers who hear the page.
        bars: at least one, from top to bottom.
    """
    unit = (_WIDTH - _ROOM) / (max(bar.far for bar in bars) or 1.0)
    rows = "".join(_row(bar, index * _STEP, unit) for index, bar in enumerate(bars))
    height = len(bars) * _STEP
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{rows}</svg>"
    )


def _row(bar: Bar, top: int, unit: float) -> str:
    y = top + 20
    middle = y + _BAR / 2
    end, far = bar.value * unit, bar.far * unit
    kind = "bar marked" if bar.marked else "bar"
    return (
        f'<text x="0" y="{y - 5}">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="0" y="{y}" width="{end:.1f}" height="{_BAR}" rx="2"/>'
        f'<path class="far" d="M{end:.1f} {middle}H{far:.1f}M{far:.1f} {y + 4}v{_BAR - 8}"/>'
        f'<text class="figure" x="{far + 8:.1f}" y="{middle + 4}">{escape(bar.caption)}</text>'
    )
