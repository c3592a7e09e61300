"""Resources that one user has at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, final

from fcn_deploy.errors import InferenceError

_Resource = TypeVar("_Resource")


@final
class ResourcePool(Generic[_Resource]):
    """Resources that one user has at a time, created when first needed.

    Args:
        create: creates number 0, 1, ...
        limit: how many there may be; further users wait.
        closed: the message of :meth:`acquire` once the pool is closed.
    """

    def __init__(self, create: Callable[[int], _Resource], limit: int, closed: str) -> None:
        self._create = create
        self._limit = limit
        self._closed_message = closed
        self._created = 0
        self._idle: list[_Resource] = []
        self._changed = threading.Condition()
        self._closed = False

    def acquire(self) -> _Resource:
        """The one released last, or a new one; waits while the limit is reached and none is idle.

        Raises:
            InferenceError: the pool is closed.
        """
        with self._changed:
            while not self._closed and not self._idle and self._created == self._limit:
                self._changed.wait()
            if self._closed:
                raise InferenceError(self._closed_message)
            if self._idle:
                return self._idle.pop()
            resource = self._create(self._created)
            self._created += 1
            return resource

    def release(self, resource: _Resource) -> None:
        """Return one to the pool."""
        with self._changed:
            self._idle.append(resource)
            self._changed.notify_all()

    def close(self) -> list[_Resource]:
        """Refuse new users, wait for those that have one, and return all resources."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._idle) < self._created:
                self._changed.wait()
            return self._idle
