"""What the driver made for us: handed out by a device, freed once, and refused after that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from fcn_deploy.errors import InferenceError
from fcn_deploy.runtimes.cuda.driver import Driver


class Owner(Protocol):
    """What a resource asks of the device that it was made on."""

    def current(self) -> AbstractContextManager[Driver]:
        """The device's context current in this thread, and its driver. Raises InferenceError."""

    def owns(self, resource: Resource) -> bool:
        """Whether ``resource`` is allocated on this device and not freed yet."""

    def release(self, resource: Resource) -> None:
        """Free ``resource`` once; raises nothing."""


class Resource:
    """Something that the driver made.

    Args:
        owner: the device that it was made on.
        native: the binding's own object or handle for it.
    """

    def __init__(self, owner: Owner, native: Any) -> None:
        self._owner = owner
        self.native = native

    def free(self) -> None:
        """Free it; twice is harmless, and nothing is raised."""
        self._owner.release(self)

    def destroy(self, driver: Driver) -> None:
        """The driver's call that frees it; called once, by its owner, with the context current."""
        raise NotImplementedError

    @contextmanager
    def in_context(self, *others: Resource) -> Iterator[Driver]:
        """The context current, for a call that uses this resource and ``others``.

        Raises:
            InferenceError: one of them is freed. Without this check its handle would be null, which the
                driver takes for the default stream.
        """
        for used in (self, *others):
            if not used._owner.owns(used):
                name = type(used).__name__.lower()
                raise InferenceError(f"this CUDA {name} is freed; load the artefact again")
        with self._owner.current() as driver:
            yield driver
