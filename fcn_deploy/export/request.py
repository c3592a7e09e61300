"""Where the network of an export comes from, as the caller stated it; checked before anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.errors import UsageError
from fcn_deploy.export.preparation import ORDERS
from fcn_deploy.spec import ModelSpec

FACTORY_WEIGHTS = ""
"""In place of a checkpoint: the weights that a factory itself gives its module."""


@dataclass(frozen=True)
class Request:
    """A checkpoint or a module, and what was stated about it. None stands for 'not given' everywhere."""

    checkpoint: Any
    """A file, ``bundled``, ``random``, a Network or any module."""
    model: Any
    """A module or a factory for the weights of ``checkpoint``."""
    key: str | None
    trained_on: str | None
    fcn8s: Mapping[str, Any]
    """``variant`` and ``learned_upscore``."""
    num_classes: int | None
    classes: int | None
    """How many names were given."""
    random: Mapping[str, int | None]
    """``width``, ``fc_channels`` and ``seed`` of random weights."""
    module: Mapping[str, Any]
    """Fields of :class:`fcn_deploy.model.user.ModuleOptions`."""
    spec: ModelSpec | None

    @property
    def in_memory(self) -> bool:
        """Whether the checkpoint is a network or a module, not a file or a name."""
        return not isinstance(self.checkpoint, (str, Path))

    @property
    def is_random(self) -> bool:
        return not self.in_memory and str(self.checkpoint) == "random"

    def check(self) -> None:
        """Raises UsageError where two things that were stated do not go together."""
        if self.trained_on not in (None, *ORDERS):
            raise UsageError(f"trained_on must be bgr or rgb, not {self.trained_on!r}")
        if not isinstance(self.spec, (ModelSpec, type(None))):
            raise UsageError(f"spec is a ModelSpec, not a {type(self.spec).__name__}")
        if not self.in_memory and str(self.checkpoint) == FACTORY_WEIGHTS and self.model is None:
            raise UsageError("give a checkpoint, or a model that has its own weights")
        if self.model is not None and str(self.checkpoint) == "bundled":
            raise UsageError(
                "the bundled weights are those of fcn8s-lite, and --model names another; leave it out"
            )
        if self.is_random and (self.model is not None or self.trained_on == "rgb"):
            option = "--model" if self.model is not None else "--trained-on"
            raise UsageError(f"{option} is for checkpoint files; leave it out")
        if self.in_memory and self.model is not None:
            raise UsageError("a module was given twice: as the checkpoint, and as its model; leave one out")
        if self.key is not None and (self.in_memory or self.is_random):
            raise UsageError("--key chooses weights in a checkpoint file; leave it out")
        for name, value in self.random.items():
            if value is not None and not self.is_random:
                raise UsageError(
                    f"{_option(name)} is for --weights random; a checkpoint has its own; leave it out"
                )
        for name, value in {**self.fcn8s, "num_classes": self.num_classes}.items():
            if value is not None and self.in_memory:
                raise UsageError(
                    f"{_option(name)} is for checkpoint files; a network in memory has its own; leave it out"
                )
            if value is not None and self.model is not None and name in self.fcn8s:
                raise UsageError(f"{_option(name)} is for FCN-8s, and --model names another; leave it out")

    def refuse_module_options(self, name: str) -> None:
        """Raises UsageError where something was stated that only a user's module needs.

        Args:
            name: of the network that was found.
        """
        for option, value in {**self.module, "spec": self.spec}.items():
            if value is not None:
                raise UsageError(
                    f"{_option(option)} is for modules of your own, and this is {name}; leave it out"
                )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
