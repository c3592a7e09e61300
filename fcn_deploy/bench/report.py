"""A BenchmarkResult for people: tables, remarks, and one HTML page.

The page holds its style, its charts and, where they are given as bytes, its pictures, so that it is
one file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from fcn_deploy.bench.chart import Bar, bar_chart
from fcn_deploy.bench.figures import number, share
from fcn_deploy.bench.results import BenchmarkResult, Percentiles, Row
from fcn_deploy.errors import UsageError
from fcn_deploy.files import write_text

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Column names, and rows of as many cells."""

Pictures = Mapping[str, "bytes | str"]
"""Caption -> the bytes of a PNG or JPEG file, or a path relative to the page."""

_MAX_ROUND_SPREAD = 0.2
"""A larger spread of the rounds is mentioned in the remarks; see :attr:`Latency.round_spread`."""

_MAX_IDLE_CPU = 0.05
"""More processor seconds used by a waiting process are mentioned in the remarks."""


def to_table(result: BenchmarkResult) -> Table:
    """One line for each row: speed, spread, ratio, agreement, memory, load time. Columns name their units."""
    columns = (
        *("row", "size", "batch", "p50 ms", "p90 ms", "p99 ms", "rounds ms", "frames/s", "times as fast"),
        *("agreement", "peak MB", "load s"),
    )
    return columns, [_cells(row) for row in result.rows]


def to_stages(result: BenchmarkResult) -> Table:
    """One line for each measured row: p50 of each stage and end to end, in milliseconds."""
    columns = ("row", "size", "batch", "preprocess ms", "infer ms", "postprocess ms", "end to end ms")
    lines = []
    for row in result.rows:
        if row.stages_ms and row.latency_ms:
            stages: Iterable[Percentiles] = (
                row.stages_ms.preprocess,
                row.stages_ms.infer,
                row.stages_ms.postprocess,
            )
            times = (*(one.p50 for one in stages), row.latency_ms.p50)
            lines.append((row.name, _size(row), str(row.batch), *map(number, times)))
    return columns, lines


def to_device(result: BenchmarkResult) -> Table:
    """One line for each row timed on a GPU: p50 of copies and compute in milliseconds, and its memory."""
    columns = ("row", "size", "batch", "copy in ms", "compute ms", "copy out ms", "CUDA graph", "GPU MB")
    lines = []
    for row in result.rows:
        if row.device_ms:
            stages = (row.device_ms.copy_in, row.device_ms.compute, row.device_ms.copy_out)
            facts = (str(row.details.get("cuda_graph", "")), number(row.details.get("gpu_memory_mb")))
            lines.append((row.name, _size(row), str(row.batch), *(number(one.p50) for one in stages), *facts))
    return columns, lines


def remarks(result: BenchmarkResult) -> list[str]:
    """Sentences that belong under the table: failures, unknown agreements, warnings, notes."""
    found = [*result.warnings]
    for row in result.rows:
        about = f"{row.name}, {row.case}"
        if row.failure is not None:
            found.append(f"{about}: not measured: {row.failure}")
            continue
        if row.agreement.share is None:
            found.append(f"{about}: agreement not known: {row.agreement.reason}")
        if row.warm_up and not row.warm_up.steady:
            found.append(f"{about}: latency was still falling after {row.warm_up.calls} calls of the warm-up")
        if row.latency_ms and row.latency_ms.round_spread > _MAX_ROUND_SPREAD:
            spread = f"{100 * row.latency_ms.round_spread:.0f} %"
            found.append(f"{about}: the medians of the rounds differ by {spread}; something else was running")
        if row.idle_cpu_seconds is not None and row.idle_cpu_seconds > _MAX_IDLE_CPU:
            found.append(f"{about}: used {row.idle_cpu_seconds:.2f} s of processor time while it waited")
    named = [(row.artefact, row.description, row.note) for row in result.rows]
    for artefact, description, note in dict.fromkeys(named):
        found.extend(f"{artefact}: {text}" for text in (description, note) if text)
    return list(dict.fromkeys(found))


def write_html(result: BenchmarkResult, path: str | Path, pictures: Pictures | None = None) -> None:
    """Write :func:`to_html` atomically. Raises UsageError as that, and where it cannot be written."""
    write_text(path, to_html(result, pictures))


def to_html(result: BenchmarkResult, pictures: Pictures | None = None) -> str:
    """The report as one page, for light and dark screens.

    Args:
        result: what :func:`~fcn_deploy.bench.method.benchmark` returned.
        pictures: shown below the table; bytes are put into the page.

    Raises:
        UsageError: a picture is neither.
    """
    parts = [
        f"<p class='when'>{escape(_headline(result))}</p>",
        *_charts(result),
        _html_table(*to_table(result)),
        _list(remarks(result), "remarks"),
        _figures(pictures or {}),
        "<h2>Where the time goes</h2><p>Median of each stage.</p>",
        _html_table(*to_stages(result)),
        _html_table(*to_device(result)),
        "<h2>How it was measured</h2>",
        _list(result.method.get("text", []), "method"),
        "<h2>Machine and versions</h2>",
        _pairs({**result.machine, "threads": result.threads}),
        _pairs(result.versions),
    ]
    return _PAGE.format(style=_STYLE, body="\n".join(part for part in parts if part))


def _cells(row: Row) -> tuple[str, ...]:
    start = (row.name, _size(row), str(row.batch))
    if row.latency_ms is None:
        return (*start, "failed", *[""] * 8)
    latency = row.latency_ms
    return (
        *start,
        *map(number, (latency.p50, latency.p90, latency.p99)),
        f"{number(min(latency.rounds))} to {number(max(latency.rounds))}",
        number(row.frames_per_second),
        _times_as_fast(row),
        share(row.agreement.share),
        number(row.memory_mb.peak if row.memory_mb else None),
        number(row.load_seconds),
    )


def _size(row: Row) -> str:
    return f"{row.height}x{row.width}"


def _times_as_fast(row: Row) -> str:
    if row.ratio is None:
        return ""
    return "1 (baseline)" if row.is_baseline else str(row.ratio)


def _headline(result: BenchmarkResult) -> str:
    cpu = result.machine.get("board") or result.machine.get("cpu") or "this machine"
    gpu = result.machine.get("gpu")
    threads = f"{result.threads} thread{'s' * (result.threads > 1)}"
    return f"{cpu}{f' with {gpu}' if gpu else ''}, {threads}, {result.started_at}"


def _charts(result: BenchmarkResult) -> list[str]:
    """One chart for each size and batch, because their latencies differ too much for one scale."""
    charts = []
    for (size, batch), rows in groupby(result.rows, key=lambda row: (_size(row), row.batch)):
        bars = [
            Bar(
                label=row.name,
                value=row.latency_ms.p50,
                whisker=row.latency_ms.p99,
                caption=f"{number(row.latency_ms.p50)} ms",
                baseline=row.is_baseline,
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
    """The ``src`` of an image. Anything but a picture or a relative path is refused."""
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
.bar { fill: var(--bar); } .bar.baseline { fill: var(--base); }
.whisker { stroke: var(--soft); fill: none; }
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
