"""A hash that the user knows from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.errors import EngineError, ModelError, UsageError
from fcn_deploy.runtimes.known_hash import check_expected

HASH = "0123456789abcdef" * 4
FILE = Path("model.engine")


@pytest.mark.parametrize("expected", [None, HASH, HASH.upper()])
def test_nothing_to_compare_or_the_same(expected: str | None) -> None:
    check_expected(FILE, HASH, expected, EngineError)


@pytest.mark.parametrize("error", [EngineError, ModelError])
def test_another_hash_names_both(error: type[Exception]) -> None:
    with pytest.raises(error, match=f"model.engine has the SHA-256 {HASH}, expected {'f' * 64}; do not load"):
        check_expected(FILE, HASH, "F" * 64, error)


@pytest.mark.parametrize("expected", ["", "f" * 63, "g" * 64, HASH + "\n", f"sha256:{HASH}"])
def test_what_is_no_hash(expected: str) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        check_expected(FILE, HASH, expected, EngineError)
