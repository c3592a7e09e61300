"""Checks of arguments that the public verbs share."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from fcn_deploy.errors import UsageError


def as_names(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names as a tuple; a single one need not be put into a list."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def as_integer(name: str, value: object, minimum: int) -> int:
    """``value`` as a Python int, numpy's integers included.

    Args:
        name: of the argument, for the message.
        value: what was given.
        minimum: the smallest that is accepted.

    Raises:
        UsageError: it is not a whole number, or is too small.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {value!r}") from None
    if isinstance(value, bool) or number < minimum:
        raise UsageError(f"{name} must be a whole number of at least {minimum}, not {value!r}")
    return number


def as_size(name: str, value: object) -> tuple[int, int]:
    """A height and a width, each at least 1.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise UsageError(f"{name} must be a height and a width, such as (360, 480), not {value!r}")
    height, width = (as_integer(name, length, 1) for length in value)
    return height, width
