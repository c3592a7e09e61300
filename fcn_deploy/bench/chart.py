"""A bar chart as inline SVG, in the colours of the page around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 720
_BAR = 18
_STEP = 46
_CAPTION_WIDTH = 120
"""Space at the right of the longest line for its caption."""


@dataclass(frozen=True)
class Bar:
    """One row of the chart."""

    label: str
    value: float
    """Length of the bar, above 0."""
    whisker: float
    """Where the thin line ends; at least ``value``."""
    caption: str
    """Written at the end of the line."""
    baseline: bool = False
    """Drawn in the second colour."""


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero, each with a thin line to a second value.

    Args:
        title: what the chart shows, for screen readers.
        bars: at least one, from top to bottom.
    """
    unit = (_WIDTH - _CAPTION_WIDTH) / (max(bar.whisker for bar in bars) or 1.0)
    rows = "".join(_row(bar, index * _STEP, unit) for index, bar in enumerate(bars))
    height = len(bars) * _STEP
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{rows}</svg>"
    )


def _row(bar: Bar, top: int, unit: float) -> str:
    y = top + 20
    middle = y + _BAR / 2
    end, whisker = bar.value * unit, bar.whisker * unit
    kind = "bar baseline" if bar.baseline else "bar"
    return (
        f'<text x="0" y="{y - 5}">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="0" y="{y}" width="{end:.1f}" height="{_BAR}" rx="2"/>'
        f'<path class="whisker" d="M{end:.1f} {middle}H{whisker:.1f}M{whisker:.1f} {y + 4}v{_BAR - 8}"/>'
        f'<text class="figure" x="{whisker + 8:.1f}" y="{middle + 4}">{escape(bar.caption)}</text>'
    )
