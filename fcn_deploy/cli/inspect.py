"""``fcn-deploy inspect``: what an artefact is, where it comes from, and what was verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.cli import console, options
from fcn_deploy.describe import chain, describe, megabytes
from fcn_deploy.results import Rows

if TYPE_CHECKING:
    from fcn_deploy.spec import ModelSpec

_DIGEST = {
    True: "matches: graph, weights and description are as they were written",
    False: "does not match: the file was changed after it was written; export it again",
    None: "",
}


def inspect(artefact: options.Artefact, as_json: options.Json = False) -> None:
    """Show an artefact's description, contents, provenance and evidence."""
    from fcn_deploy.files import sha256_of
    from fcn_deploy.runtimes import artefact as about
    from fcn_deploy.runtimes.location import locate, shown

    location = locate(artefact)
    spec = about.read_spec(artefact)
    contents = about.describe(artefact)
    is_file = isinstance(location, Path)
    facts = {
        "file": shown(artefact),
        "bytes": Path(location).stat().st_size if is_file else None,
        "sha256": sha256_of(location) if is_file else None,
        "identity": about.identity(artefact),
        "digest_matches": about.check_digest(artefact),
        "contents": contents.facts,
        "spec": json.loads(spec.to_json()),
    }
    if as_json:
        console.write_json(facts)
    else:
        _show(facts, spec, contents.rows, console.Printer())
    for warning in contents.warnings:
        console.warn(warning)


def _show(facts: dict[str, Any], spec: ModelSpec, contents: Rows, out: console.Printer) -> None:
    size = "" if facts["bytes"] is None else f" ({megabytes(facts['bytes'])})"
    out.say(f"{facts['file']}{size}")
    out.pairs(
        [
            *describe(spec),
            ("sha256", facts["sha256"] or ""),
            ("identity", "" if facts["identity"] == facts["sha256"] else facts["identity"]),
            ("digest", _DIGEST[facts["digest_matches"]]),
            *contents,
        ],
        indent=2,
    )
    out.say("Comes from")
    for number, link in enumerate(chain(spec) or ["(not recorded)"], start=1):
        out.say(f"  {number}. {link}")
