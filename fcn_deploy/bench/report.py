"""A BenchReport for people and programs: table, remarks, JSON, and one HTML page.

The page holds its style, its chart and, where they are given as bytes, its pictures, so that it
can be mailed as one file.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from fcn_deploy.bench.chart import Bar, bar_chart
from fcn_deploy.bench.results import BenchReport, Percentiles, Row
from fcn_deploy.errors import UsageError
from fcn_deploy.files import write_text

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Column names, and rows of as many cells."""

Pictures = Mapping[str, "bytes | str"]
"""Caption -> the bytes of a PNG or JPEG file, or a path relative to the page."""

_RESTLESS = 0.2
"""Medians of the rounds further apart than this share of their middle are remarked on."""

_AWAKE = 0.05
"""Processor seconds of a waiting process that are remarked on."""


def to_table(report: BenchReport) -> Table:
    """One line a row: speed, spread, ratio, agreement, memory, load. Units stand in the names."""
    columns = (
        *("row", "size", "batch", "p50 ms", "p90 ms", "p99 ms", "rounds ms", "frames/s", "times as fast"),
        *("agreement", "peak MB", "load s"),
    )
    return columns, [_cells(row) for row in report.rows]


def to_stages(report: BenchReport) -> Table:
    """One line a measured row: p50 of each stage and end to end, in milliseconds."""
    columns = ("row", "size", "batch", "preprocess ms", "infer ms", "postprocess ms", "end to end ms")
    lines = []
    for row in report.rows:
        if row.stages_ms and row.latency_ms:
            stages: Iterable[Percentiles] = (
                row.stages_ms.preprocess,
                row.stages_ms.infer,
                row.stages_ms.postprocess,
            )
            times = (*(one.p50 for one in stages), row.latency_ms.p50)
            lines.append((row.name, _size(row), str(row.batch), *map(_number, times)))
    return columns, lines


def to_device(report: BenchReport) -> Table:
    """One line for each row whose device was asked: p50 of copies and compute in milliseconds, memory."""
    columns = ("row", "size", "batch", "copy in ms", "compute ms", "copy out ms", "CUDA graph", "GPU MB")
    lines = []
    for row in report.rows:
        if row.device_ms:
            stages = (row.device_ms.copy_in, row.device_ms.compute, row.device_ms.copy_out)
            facts = (str(row.details.get("cuda_graph", "")), _number(row.details.get("gpu_memory_mb")))
            lines.append(
                (row.name, _size(row), str(row.batch), *(_number(one.p50) for one in stages), *facts)
            )
    return columns, lines


def remarks(report: BenchReport) -> list[str]:
    """Sentences that belong under the table: failures, missing agreements, doubts, notes."""
    found = [*report.warnings]
    for row in report.rows:
        about = f"{row.name}, {_size(row)}, batch {row.batch}"
        if row.failure is not None:
            found.append(f"{about}: not measured: {row.failure}")
            continue
        if row.agreement.share is None:
            found.append(f"{about}: agreement not known: {row.agreement.reason}")
        if row.warm_up and not row.warm_up.steady:
            found.append(f"{about}: latency was still falling after {row.warm_up.calls} calls of warming up")
        if row.latency_ms and row.latency_ms.round_spread > _RESTLESS:
            spread = f"{100 * row.latency_ms.round_spread:.0f} %"
            found.append(f"{about}: the medians of the rounds differ by {spread}; something else was running")
        if row.idle_cpu_seconds is not None and row.idle_cpu_seconds > _AWAKE:
            found.append(f"{about}: used {row.idle_cpu_seconds:.2f} s of processor time while it waited")
    named = [(row.artefact, row.description, row.note) for row in report.rows]
    for artefact, description, note in dict.fromkeys(named):
        found.extend(f"{artefact}: {text}" for text in (description, note) if text)
    return list(dict.fromkeys(found))


def to_json(report: BenchReport) -> str:
    """The whole report; ``docs/explanation/bench-method.md`` describes each key."""
    return json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n"


def write_json(report: BenchReport, path: str | Path) -> None:
    """Write :func:`to_json` atomically. Raises UsageError where the file cannot be written."""
    write_text(path, to_json(report))


def write_html(report: BenchReport, path: str | Path, pictures: Pictures | None = None) -> None:
    """Write :func:`to_html` atomically. Raises UsageError as that, and where it cannot be written."""
    write_text(path, to_html(report, pictures))


def to_html(report: BenchReport, pictures: Pictures | None = None) -> str:
    """The report as one page, for light and dark screens.

    Args:
        report: what :func:`~fcn_deploy.bench.method.benchmark` answered.
        pictures: shown below the table; bytes are put into the page.

    Raises:
        UsageError: a picture is neither.
    """
    parts = [
        f"<p class='when'>{escape(_headline(report))}</p>",
        *_charts(report),
        _html_table(*to_table(report)),
        _list(remarks(report), "remarks"),
        _figures(pictures or {}),
        "<h2>Where the time goes</h2><p>Median of each stage.</p>",
        _html_table(*to_stages(report)),
        _html_table(*to_device(report)),
        "<h2>How it was measured</h2>",
        _list(report.method.get("text", []), "method"),
        "<h2>Machine and versions</h2>",
        _pairs({**report.machine, "threads": report.threads}),
        _pairs(report.versions),
    ]
    return _PAGE.format(style=_STYLE, body="\n".join(part for part in parts if part))


def _cells(row: Row) -> tuple[str, ...]:
    start = (row.name, _size(row), str(row.batch))
    if row.latency_ms is None:
        return (*start, "failed", *[""] * 8)
    latency = row.latency_ms
    return (
        *start,
        *map(_number, (latency.p50, latency.p90, latency.p99)),
        f"{_number(min(latency.rounds))} to {_number(max(latency.rounds))}",
        _number(row.frames_per_second),
        _times(row),
        _share(row.agreement.share),
        _number(row.memory_mb.peak if row.memory_mb else None),
        _number(row.load_seconds),
    )


def _size(row: Row) -> str:
    return f"{row.height}x{row.width}"


def _number(value: float | None) -> str:
    """Three digits: nobody can repeat a fourth."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _times(row: Row) -> str:
    if row.ratio is None:
        return ""
    if row.ratio.baseline == row.name:
        return "1 (baseline)"
    return f"{row.ratio.median:.2f} ({row.ratio.min:.2f} to {row.ratio.max:.2f})"


def _share(share: float | None) -> str:
    """Rounded down, so that 100 % means every single label."""
    if share is None:
        return "unknown"
    return "100 %" if share == 1 else f"{math.floor(share * 1e5) / 1e3:.3f} %"


def _headline(report: BenchReport) -> str:
    cpu = report.machine.get("board") or report.machine.get("cpu") or "this machine"
    gpu = report.machine.get("gpu")
    threads = f"{report.threads} thread{'s' * (report.threads > 1)}"
    return f"{cpu}{f' with {gpu}' if gpu else ''}, {threads}, {report.started_at}"


def _charts(report: BenchReport) -> list[str]:
    """One chart for each size and batch, because their latencies share no scale."""
    charts = []
    for (size, batch), rows in groupby(report.rows, key=lambda row: (_size(row), row.batch)):
        bars = [
            Bar(
                label=row.name,
                value=row.latency_ms.p50,
                far=row.latency_ms.p99,
                caption=f"{_number(row.latency_ms.p50)} ms",
                marked=row.ratio is not None and row.ratio.baseline == row.name,
            )
            for row in rows
            if row.latency_ms
        ]
        if bars:
            title = f"Latency at {size}, batch {batch}"
            charts.append(f"<h2>{title}</h2>{bar_chart(title, bars)}")
    if charts:
        charts.append(
            "<p>Bars end at p50, thin lines at p99; shorter is faster. The grey bar is the baseline.</p>"
        )
    return charts


def _html_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _list(sentences: Iterable[Any], kind: str) -> str:
    items = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in sentences)
    return f"<ul class='{kind}'>{items}</ul>" if items else ""


def _pairs(values: Mapping[str, Any]) -> str:
    shown = {
        name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in values.items()
        if value not in (None, "", [], ())
    }
    return (
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in shown.items()) + "</dl>"
    )


def _figures(pictures: Pictures) -> str:
    return "".join(
        f"<figure><img src='{escape(_source(picture, caption))}' alt='{escape(caption)}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in pictures.items()
    )


def _source(picture: bytes | str, caption: str) -> str:
    """What the page's ``src`` says. Anything but a picture or a relative path is refused."""
    if isinstance(picture, bytes):
        for magic, kind in ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg")):
            if picture.startswith(magic):
                return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
        raise UsageError(f"the picture {caption!r} is neither PNG nor JPEG; encode it first")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|[/\\]", picture):
        raise UsageError(f"the picture {caption!r} must be a path relative to the page, not {picture[:40]}")
    return picture


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fdfdfc; --soft: #667080; --line: #dde1e6;
  --bar: #2f6fb4; --base: #a3abb6; --warn: #8a4b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #15181d; --soft: #9aa4b2;
  --line: #313842; --bar: #5b9de0; --base: #68717d; --warn: #f0b05c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; } h2 { margin: 2.2rem 0 .5rem; font-size: 1.15rem; }
.when, figcaption, dt { color: var(--soft); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.remarks { border-left: 3px solid var(--warn); }
.chart { width: 100%; max-width: 45rem; font-size: 13px; }
.chart text { fill: var(--ink); } .chart .figure { font-variant-numeric: tabular-nums; }
.bar { fill: var(--bar); } .bar.marked { fill: var(--base); }
.far { stroke: var(--soft); fill: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .92rem; }
dd { margin: 0; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; border-radius: 4px; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fcn-deploy bench</title>
<style>{style}</style>
</head>
<body>
<h1>Measured frames</h1>
{body}
</body>
</html>
"""
