"""The result as text and as a page: nothing hidden, nothing unescaped, nothing outside the file."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.bench.chart import Bar, bar_chart
from fcn_deploy.bench.machine import describe_machine
from fcn_deploy.bench.report import (
    remarks,
    to_device,
    to_html,
    to_stages,
    to_table,
    write_html,
)
from fcn_deploy.bench.results import (
    Agreement,
    BenchmarkResult,
    DeviceStages,
    Latency,
    MemoryUse,
    Percentiles,
    Ratio,
    Row,
    Stages,
    WarmUp,
)
from fcn_deploy.errors import UsageError

NASTY = "<script>alert('x')</script> & \"co\""
PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "bench-method.md"


def row(**changes) -> Row:
    one = Row(
        name="model.onnx · onnxruntime",
        kind="artefact",
        artefact="model.onnx",
        backend="onnxruntime",
        height=360,
        width=480,
        batch=1,
        device="cpu",
        precision="fp32",
        calls=100,
        frames_per_second=12.34,
        latency_ms=Latency(81.04, 90.0, 123.4, 79.0, 3.0, (80.0, 82.0), 0.025),
        stages_ms=Stages(*(Percentiles(p, p + 1, p + 2) for p in (0.5, 80.0, 0.54))),
        load_seconds=0.5,
        first_answer_seconds=0.6,
        memory_mb=MemoryUse(40.0, 90.0, 250.0),
        warm_up=WarmUp(12, 1.0, True),
        idle_cpu_seconds=0.0,
        ratio=Ratio("typical user code", 1.5, 1.4, 1.6),
        agreement=Agreement(1.0, 1.0, 8, "bundled"),
    )
    return dataclasses.replace(one, **changes)


def failed_row(reason: str, **changes) -> Row:
    return row(latency_ms=None, stages_ms=None, ratio=None, failure=reason, **changes)


def result(*rows: Row, **changes) -> BenchmarkResult:
    one = BenchmarkResult(
        rows=rows,
        method={"text": ["In turns.", NASTY]},
        machine={"cpu": "Some CPU", "flags": ["avx2"], "governor": "", "load_average": 0.1},
        versions={"python": "3.11"},
        threads=2,
        started_at="2025-01-01T00:00:00Z",
    )
    return dataclasses.replace(one, **changes)


def cells(one: Row) -> dict[str, str]:
    columns, (line,) = to_table(result(one))
    return dict(zip(columns, line, strict=True))


def test_a_line_of_the_table() -> None:
    found = cells(row())
    assert found["p50 ms"] == "81"
    assert found["p99 ms"] == "123"
    assert found["rounds ms"] == "80 to 82"
    assert found["frames/s"] == "12.3"
    assert found["times as fast"] == "1.50 (1.40 to 1.60)"
    assert found["agreement"] == "100 %"
    assert found["peak MB"] == "250"


def test_a_row_timed_on_a_gpu_has_a_line_of_its_own() -> None:
    stages = DeviceStages(*(Percentiles(p, p + 1, p + 2) for p in (0.11, 3.456, 0.07)))
    engine = row(device_ms=stages, details={"cuda_graph": "yes", "gpu_memory_mb": 123.4})
    columns, (line,) = to_device(result(row(), engine))
    found = dict(zip(columns, line, strict=True))
    assert [found[f"{stage} ms"] for stage in ("copy in", "compute", "copy out")] == ["0.11", "3.46", "0.07"]
    assert (found["CUDA graph"], found["GPU MB"]) == ("yes", "123")
    assert "<th>copy in ms</th>" in to_html(result(engine))
    assert "<th>copy in ms</th>" not in to_html(result(row()))


@given(st.floats(0, 1, exclude_max=True))
def test_only_every_label_is_100_percent(share: float) -> None:
    shown = cells(row(agreement=Agreement(share, share, 8, "bundled")))["agreement"]
    assert float(shown.removesuffix(" %")) <= 100 * share
    assert not shown.startswith("100")


def test_the_baseline_is_marked() -> None:
    assert cells(row(ratio=Ratio(row().name, 1, 1, 1)))["times as fast"] == "1 (baseline)"


def test_stages_of_measured_rows_only() -> None:
    _, lines = to_stages(result(row(), failed_row("no")))
    assert lines == [("model.onnx · onnxruntime", "360x480", "1", "0.5", "80", "0.54", "81")]


def test_an_unknown_agreement_is_told_in_the_table_and_below_it() -> None:
    unknown = row(agreement=Agreement(reason="torch is not installed"))
    assert cells(unknown)["agreement"] == "unknown"
    assert any("torch is not installed" in sentence for sentence in remarks(result(unknown)))
    assert "torch is not installed" in to_html(result(unknown))


def test_a_failed_row_is_told_with_its_reason() -> None:
    failed = failed_row("no such kernel")
    assert cells(failed)["p50 ms"] == "failed"
    assert any("not measured: no such kernel" in sentence for sentence in remarks(result(failed)))
    assert "no such kernel" in to_html(result(failed))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"warm_up": WarmUp(6, 20.0, False)}, "after 6 calls"),
        ({"latency_ms": Latency(80, 90, 100, 70, 3, (60, 100), 0.5)}, "differ by 50 %"),
        ({"idle_cpu_seconds": 1.0}, "while it waited"),
        ({"note": "trained for minutes"}, "trained for minutes"),
        ({"description": "the plain module"}, "the plain module"),
    ],
)
def test_warnings_and_notes_are_remarked_on(changes: dict, told: str) -> None:
    assert not remarks(result(row()))
    assert any(told in sentence for sentence in remarks(result(row(**changes))))


def test_warnings_come_first_and_nothing_comes_twice() -> None:
    noted = row(note="a note")
    found = remarks(result(noted, noted, warnings=("the machine was busy",)))
    assert found == ["the machine was busy", "model.onnx: a note"]


def test_a_result_is_shown_with_one_line_a_row() -> None:
    shown = result(row(), failed_row("no such kernel"), warnings=("the machine was busy",))
    assert shown.summary() == [
        (
            "model.onnx · onnxruntime at 360x480, batch 1",
            "81 ms (p90 90, p99 123), 12.3 frames/s, 1.50 (1.40 to 1.60) times as fast as typical user code, "
            "labels equal to the reference: 100 %",
        ),
        ("model.onnx · onnxruntime at 360x480, batch 1", "not measured: no such kernel"),
        ("warning", "the machine was busy"),
    ]
    assert repr(shown).splitlines()[0] == "BenchmarkResult"
    assert "times as fast" not in repr(result(row(ratio=Ratio(row().name, 1, 1, 1))))


def test_json_has_the_documented_keys() -> None:
    found = json.loads(json.dumps(result(row()).to_dict(), allow_nan=False))
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8").partition("## The JSON")[2]))
    one = found["rows"][0]
    inner = [one[key] for key in ("latency_ms", "stages_ms", "memory_mb", "warm_up", "ratio", "agreement")]
    assert not {*found, *one, *describe_machine(), *(key for part in inner for key in part)} - documented
    assert found["schema_version"] == 1
    assert one["latency_ms"]["rounds"] == [80.0, 82.0]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_escapes_everything_and_loads_nothing() -> None:
    nasty = {"name": NASTY, "artefact": NASTY, "note": NASTY, "agreement": Agreement(reason=NASTY)}
    machine = {"cpu": NASTY, NASTY: NASTY}
    page = to_html(
        result(
            row(**nasty),
            failed_row(NASTY, **nasty),
            machine=machine,
            versions={NASTY: NASTY},
            warnings=(NASTY,),
        ),
        {NASTY: PNG},
    )
    reader = Reader()
    reader.feed(page)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert not re.search(r"https?://|@import|url\(", page)
    (picture,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert picture["src"].startswith("data:image/png;base64,") and picture["alt"] == NASTY


def test_the_page_is_for_light_and_dark_screens() -> None:
    assert "prefers-color-scheme: dark" in to_html(result(row()))


def test_each_size_and_batch_has_a_chart_of_its_own() -> None:
    page = to_html(result(row(), row(name="other"), row(batch=4)))
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert [len(ElementTree.fromstring(chart).findall(".//rect")) for chart in charts] == [2, 1]


def test_a_report_without_figures_is_a_page_too() -> None:
    assert "<svg" not in to_html(result(failed_row("no")))


@pytest.mark.parametrize("picture", ["https://x/y.png", "javascript:alert(1)", "/etc/x.png", b"GIF89a"])
def test_only_pictures_of_the_page_are_taken(picture: str | bytes) -> None:
    with pytest.raises(UsageError, match="picture 'overlay'"):
        to_html(result(row()), {"overlay": picture})


def test_a_relative_picture_stays_a_path() -> None:
    assert "src='pictures/a.png'" in to_html(result(row()), {"overlay": "pictures/a.png"})


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write_html(result(row()), tmp_path / "bench.html", {"overlay": PNG})
    assert (tmp_path / "bench.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UsageError):
        write_html(result(row()), tmp_path / "missing" / "bench.html")


labels = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


@given(st.lists(st.tuples(labels, st.floats(0.001, 1e6), st.floats(1, 50)), min_size=1, max_size=6))
def test_a_chart_is_valid_and_in_proportion(values: list[tuple[str, float, float]]) -> None:
    bars = [Bar(label, value, value * more, f"{value} ms") for label, value, more in values]
    svg = ElementTree.fromstring(bar_chart("Latency", bars))
    widths = [float(rect.get("width")) for rect in svg.findall("rect")]
    longest = max(range(len(bars)), key=lambda i: bars[i].value)
    assert widths[longest] == max(widths)
    assert max(widths) <= float(svg.get("viewBox").split()[2])
