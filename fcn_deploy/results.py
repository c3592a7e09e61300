"""What the public verbs return: small objects with a readable ``repr`` and a ``to_dict`` for JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

Rows = list[tuple[str, str]]
"""Names and values, as a person reads them; a row with an empty value is not shown."""


class Result(ABC):
    """What a verb did. ``repr`` shows it in a few lines, :meth:`to_dict` gives all of it."""

    @abstractmethod
    def summary(self) -> Rows:
        """The most important facts, for people."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything, as types that JSON has: what the command prints with ``--json``."""

    @final
    def __repr__(self) -> str:
        shown = [(name, value) for name, value in self.summary() if value]
        width = max((len(name) for name, _ in shown), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:<{width}}  {value}" for name, value in shown)])
