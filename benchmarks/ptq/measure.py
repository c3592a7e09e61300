"""Time and peak memory of one quantisation; runs in every environment, so the standard library only."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any


def peak_mb() -> float:
    """Largest resident set so far of this process or one that it waited for, in MB."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def report(quantise: Callable[[], dict[str, Any] | None], packages: Iterable[str]) -> None:
    """Run it and print one line of JSON for compare_ptq.py, the last line of this process."""
    imported = peak_mb()
    began = time.perf_counter()
    found = quantise() or {}
    found["seconds"] = time.perf_counter() - began
    found["imported_mb"] = imported
    found["peak_mb"] = peak_mb()
    found["versions"] = {name: version(name) for name in packages}
    print("\n" + json.dumps(found), flush=True)
