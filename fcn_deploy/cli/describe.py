"""A ModelSpec in words."""

from __future__ import annotations

from typing import Any

from fcn_deploy.spec import ModelSpec

Rows = list[tuple[str, str]]


def describe(spec: ModelSpec) -> Rows:
    """What a model is, expects and answers, and what was verified: names and values for a terminal."""
    upscore = "learned" if spec.learned_upscore else "bilinear"
    return [
        ("network", f"{spec.variant}, width {spec.width}, fc {spec.fc_channels}, {upscore} upscores"),
        ("precision", spec.precision),
        ("classes", f"{spec.num_classes}: {_shortened(', '.join(spec.classes))}"),
        ("ignored", f"label {spec.ignore_label}"),
        ("frames", f"{spec.color_order}, uint8, from 1x1 to {spec.max_height}x{spec.max_width}"),
        ("prepared", f"minus {triple(spec.mean)}, divided by {triple(spec.std)} (B, G, R)"),
        ("outputs", ", ".join(spec.outputs)),
        *_evidence(spec.evidence),
        ("note", spec.note),
    ]


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
    """Bytes as MB, with a decimal where it says something."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _shortened(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(", ", 1)[0] + ", ..."


def _evidence(evidence: dict[str, Any]) -> Rows:
    rows: Rows = []
    try:
        if parity := evidence.get("parity"):
            rows.append(("parity", _parity(parity)))
            if "fp32" in parity:
                rows.append(("fp32 parity", _parity(parity["fp32"])))
        if ranges := evidence.get("fp16_range"):
            rows.append(("fp16 range", _ranges(ranges)))
        if made := evidence.get("made"):
            rows.append(("made", ", ".join(f"{key} {value}" for key, value in sorted(made.items()))))
    except (KeyError, TypeError, ValueError, AttributeError):
        rows.append(("evidence", "in a form that this version cannot read; see --json"))
    return rows


def _parity(record: dict[str, Any]) -> str:
    allowed = f" (allowed {record['tolerance']:g})" if record.get("tolerance") is not None else ""
    words = (
        f"{len(record['sizes'])} sizes against the plain module: relative logit error at most "
        f"{record['max_relative_error']:.2g}{allowed}, "
    )
    if record["min_agreement"] == 1:
        return f"{words}all labels agree"
    beyond = record["differences_beyond_ties"]
    why = f"{beyond} differ beyond ties" if beyond else "ties only"
    return f"{words}labels agree to {record['min_agreement']:.4%} ({why})"


def _ranges(record: dict[str, Any]) -> str:
    return (
        f"largest {record['largest']:.4g} of {record['limit']:.0f}, in {record['layer']}, "
        f"on {record['frames']} frames of {record['source']}"
    )
