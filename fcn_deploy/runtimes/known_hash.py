"""Executable artefacts are compared with a hash that the user knows from another place."""

from __future__ import annotations

import re
from pathlib import Path

from fcn_deploy.errors import FcnDeployError, UsageError


def check_expected(path: Path, sha256: str, expected: str | None, error: type[FcnDeployError]) -> None:
    """Refuse a file with another hash than the user expects.

    Args:
        path: the file, for the message.
        sha256: its hash.
        expected: 64 hexadecimal digits; None expects nothing.
        error: what is raised.

    Raises:
        UsageError: ``expected`` is not a hash.
        error: the hashes differ.
    """
    if expected is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UsageError(f"expected a SHA-256 of 64 hexadecimal digits, not {expected!r}")
    if sha256 != expected.lower():
        raise error(
            f"{path} has the SHA-256 {sha256}, expected {expected.lower()}; do not load it, get it again "
            "from where the hash comes from"
        )
