"""Resources that one user takes at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from fcn_deploy.errors import InferenceError


@final
class ResourcePool:
    """Things lent to one user at a time, made when first needed.

    Args:
        make: makes number 0, 1, ...
        limit: how many there may be; who wants more waits.
        closed: what :meth:`take` says once it is closed.
    """

    def __init__(self, make: Callable[[int], Any], limit: int, closed: str) -> None:
        self._make = make
        self._limit = limit
        self._says = closed
        self._made = 0
        self._idle: list[Any] = []
        self._changed = threading.Condition()
        self._closed = False

    def take(self) -> Any:
        """The one given back last, a new one, or a wait.

        Raises:
            InferenceError: it is closed.
        """
        with self._changed:
            while not self._closed and not self._idle and self._made == self._limit:
                self._changed.wait()
            if self._closed:
                raise InferenceError(self._says)
            if self._idle:
                return self._idle.pop()
            made = self._make(self._made)
            self._made += 1
            return made

    def give(self, thing: Any) -> None:
        """Hand one back."""
        with self._changed:
            self._idle.append(thing)
            self._changed.notify_all()

    def close(self) -> list[Any]:
        """Lend no more, wait for those that are out, and return all of them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._idle) < self._made:
                self._changed.wait()
            return self._idle
