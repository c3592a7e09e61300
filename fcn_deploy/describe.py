"""A ModelSpec in words: what ``inspect`` shows, and the results of the public verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from fcn_deploy.results import Rows
from fcn_deploy.spec import ModelSpec


class WrittenFile(Protocol):
    """A file that a verb wrote: what the results of ``export``, ``quantize`` and ``build_engine`` share."""

    @property
    def path(self) -> Path: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def seconds(self) -> float: ...


def file_row(written: WrittenFile) -> tuple[str, str]:
    """The file, its size and the time it took, as one row for a terminal."""
    return ("file", f"{written.path} ({megabytes(written.bytes)}, {written.seconds:.1f} s)")


def file_facts(written: WrittenFile) -> dict[str, Any]:
    """``file``, ``bytes``, ``sha256`` and ``seconds``, as JSON begins with them."""
    return {
        "file": str(written.path),
        "bytes": written.bytes,
        "sha256": written.sha256,
        "seconds": round(written.seconds, 2),
    }


def describe(spec: ModelSpec) -> Rows:
    """What a model is, expects and gives, and what was verified: names and values for a terminal."""
    named = sorted(spec.architecture.options.items())
    options = ", ".join(f"{name} {_plain(value)}" for name, value in named)
    return [
        ("network", ", ".join(filter(None, (spec.architecture.name, options)))),
        ("precision", spec.precision),
        ("classes", f"{spec.num_classes}: {_shortened(', '.join(spec.classes))}"),
        ("ignored", f"label {spec.ignore_label}"),
        ("frames", f"{spec.color_order}, uint8, {_sizes(spec)}"),
        ("prepared", f"minus {triple(spec.mean)}, divided by {triple(spec.std)} (B, G, R)"),
        ("outputs", ", ".join(spec.outputs)),
        ("threshold", f"class 1 above {spec.threshold:g}" if spec.threshold is not None else ""),
        *evidence_rows(spec.evidence),
        ("note", spec.note),
    ]


def _sizes(spec: ModelSpec) -> str:
    """The frames that are taken, such as ``from 1x1 to 4096x4096``."""
    batch, *size = spec.fixed_shape
    low, high = (spec.min_height, spec.min_width), (spec.max_height, spec.max_width)
    if None not in size:
        words = f"{size[0]}x{size[1]} only"
    else:
        smallest, largest = (
            "x".join(str(fixed or length) for fixed, length in zip(size, limit, strict=True))
            for limit in (low, high)
        )
        words = f"from {smallest} to {largest}"
    if batch is not None:
        words += f", {batch} at a time"
    if spec.size_multiple > 1:
        words += f", padded inside to multiples of {spec.size_multiple}"
    return words


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def triple(values: tuple[float, float, float]) -> str:
    """Three numbers, as short as they can be."""
    return ", ".join(f"{value:g}" for value in values)


def chain(spec: ModelSpec) -> list[str]:
    """Where a model comes from, nearest parent first, one line a link."""
    lines = []
    for link in spec.provenance:
        kind, name, sha256 = (str(link.get(key) or "") for key in ("kind", "name", "sha256"))
        named = name if name.startswith(kind) else f"{kind} {name}"
        lines.append(f"{named}  sha256 {sha256}" if sha256 else named)
    return lines


def megabytes(size: int) -> str:
    """Bytes as MB or kB, with one decimal."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _shortened(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(", ", 1)[0] + ", ..."


def evidence_rows(evidence: dict[str, Any]) -> Rows:
    """What was verified when an artefact was made."""
    rows: Rows = []
    try:
        if parity := evidence.get("parity"):
            rows += _parity_rows("parity", parity)
        if parity := evidence.get("parent_parity"):
            rows += _parity_rows("fp16 parity" if "fp32" in parity else "fp32 parity", parity)
        for kind in ("answers", "parent_answers"):
            if answers := evidence.get(kind):
                rows.append(("original", _answers(answers, of_parent=kind == "parent_answers")))
        if ranges := evidence.get("fp16_range"):
            rows.append(("fp16 range", _ranges(ranges)))
        if quantised := evidence.get("quantization"):
            rows += _quantised(quantised)
        if made := evidence.get("made"):
            rows.append(("made", ", ".join(f"{key} {value}" for key, value in sorted(made.items()))))
    except (KeyError, TypeError, ValueError, AttributeError):
        rows.append(("evidence", "in a form that this version cannot read; see --json"))
    return rows


def _parity_rows(name: str, record: dict[str, Any]) -> Rows:
    """An fp16 graph's record also holds that of the fp32 graph that it was made from."""
    rows = [(name, _parity(record))]
    return [*rows, ("fp32 parity", _parity(record["fp32"]))] if "fp32" in record else rows


def _parity(record: dict[str, Any]) -> str:
    allowed = f" (allowed {record['tolerance']:g})" if record.get("tolerance") is not None else ""
    error = record["max_relative_error"]
    words = f"{len(record['sizes'])} sizes against {record.get('network', 'the plain module')}: " + (
        "" if error is None else f"relative logit error at most {error:.2g}{allowed}, "
    )
    if record["min_agreement"] == 1:
        return f"{words}all labels agree"
    if error is None:
        return f"{words}labels agree to {record['min_agreement']:.4%}"
    beyond = record["differences_beyond_ties"]
    why = f"{beyond} differ beyond ties" if beyond else "ties only"
    return f"{words}labels agree to {record['min_agreement']:.4%} ({why})"


def _answers(record: dict[str, Any], *, of_parent: bool) -> str:
    """How an artefact, or the graph that it was made from, compares with the original network."""
    error = record["logit_error"]
    logits = "" if error is None else f", relative logit error at most {error:.2g}"
    words = (
        f"{record['frames']} frames of {record['file']}: {record['agreement']:.4%} of labels agree "
        f"(lowest {record['lowest']:.4%}){logits}"
    )
    return (
        f"{words}; the graph that this was made from was checked, this file was not" if of_parent else words
    )


def _quantised(record: dict[str, Any]) -> Rows:
    """How INT8 was made, what it costs, and what was left out."""
    method = record["method"]
    if method == "percentile":
        method += f" {record['percentile']:g}"
    bits = "7-bit weights" if record["reduce_range"] else "8-bit weights"
    bits += ", only for CPUs with VNNI" if record["assume_vnni"] else ""
    rows = [
        ("int8", f"for {record['target']}, {method}, {bits}, {len(record['int8_layers'])} layers"),
        ("calibrated", f"on {record['frames']} frames of {record['source']}"),
        ("left out", ", ".join(record["float_layers"])),
    ]
    if isinstance(check := record["agreement_with_fp32"], dict):
        words = f"{check['label_agreement']:.2%} of labels as in fp32, on {check['frames']} frames"
        rows.append(("agreement", f"{words} (lowest {check['lowest']:.2%})"))
    else:
        rows.append(("agreement", str(check)))
    if budget := record.get("budget"):
        rows += _budget(budget)
    return rows


def _budget(record: dict[str, Any]) -> Rows:
    kept = record["kept"]
    simulated = ", fp16 simulated" if record["simulated_fp16"] else ""
    rows = [
        (
            "budget",
            f"{record['max_drop']:g} points of mean IU on {record['data']}{simulated}: fp32 "
            f"{record['fp32_mean_iu']:.4f}, int8 {kept['mean_iu']:.4f}, {kept['drop']:.2f} points lost, "
            f"{len(record['trials'])} tries",
        )
    ]
    if record["float_work"]:
        speed = (
            "what that costs in speed was not measured: TensorRT runs elsewhere"
            if record["slowdown"] is None
            else f"{record['slowdown']:.2f} times as long as all in INT8 on this CPU"
        )
        rows.append(("cost", f"{record['float_work']:.0%} of the work left in higher precision; {speed}"))
    return rows


def _ranges(record: dict[str, Any]) -> str:
    return (
        f"largest {record['largest']:.4g} of {record['limit']:.0f}, in {record['layer']}, "
        f"on {record['frames']} frames of {record['source']}"
        + (f"; kept in fp32: {', '.join(kept)}" if (kept := record.get("kept_fp32")) else "")
    )
