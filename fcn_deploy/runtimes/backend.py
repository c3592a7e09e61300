"""What a backend says about itself, without its library being imported.

A backend is a class derived from :class:`Backend`, registered as an entry point of the group
``fcn_deploy.backends``. It names the files or URLs that it reads and the options that it has, reads
their descriptions, and opens them as a :class:`~fcn_deploy.runtimes.base.Runtime`.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

from fcn_deploy.arguments import as_integer
from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.runtimes.base import Runtime
from fcn_deploy.runtimes.location import Location, scheme_of
from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class BackendOptions:
    """Options that every backend accepts. A backend with more derives its own class; all have defaults.

    Raises:
        UsageError: an option is out of range.
    """

    device: str | None = None
    """``cpu``, ``cuda`` or ``cuda:N``; None takes the best that is available."""
    threads: int | None = None
    """Threads of a backend that computes on the CPU; None takes every core that this process may use."""

    def __post_init__(self) -> None:
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", str(self.device)):
            raise UsageError(f"unknown device {self.device!r}; choose cpu, cuda or cuda:N")
        if self.threads is not None:
            as_integer("threads", self.threads, 1)


@dataclass(frozen=True)
class FallbackOptions(BackendOptions):
    """Options of a backend that can run on the CPU instead."""

    allow_fallback: bool = False
    """Accept the CPU where the device asked for cannot run."""


@dataclass(frozen=True)
class Description:
    """The same facts twice, for programs and for people."""

    facts: dict[str, Any] = field(default_factory=dict)
    """What ``--json`` prints; only types that JSON knows."""
    rows: list[tuple[str, str]] = field(default_factory=list)
    """Names and values for a terminal; rows with an empty value are left out."""
    warnings: tuple[str, ...] = ()
    """Sentences that say what is wrong and what to do."""


Options = TypeVar("Options", bound=BackendOptions)


class Backend(ABC, Generic[Options]):
    """One way to run artefacts. Its module and its constructor import nothing heavy.

    Methods that get a :data:`~fcn_deploy.runtimes.location.Location` get a Path to an existing file for
    one of :attr:`suffixes`, or a str for one of :attr:`schemes`.
    """

    name: ClassVar[str]
    """As in ``--backend NAME``; also the name of the entry point."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of the files that it reads, in lower case, such as ``.onnx``."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """Of the URLs that it reads, in lower case and without ``://``."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What pip calls the packages that it uses; ``fcn-deploy doctor`` shows their versions."""
    written_by: ClassVar[str] = ""
    """The command that writes its files, for messages."""
    alternative: ClassVar[str] = ""
    """What runs where this backend cannot, for messages."""
    options: type[Options]
    """Its class of options."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, in words; None where it can. May import its library."""

    @abstractmethod
    def read_spec(self, location: Location) -> ModelSpec:
        """The description of an artefact; imports no library that only running it needs.

        Raises:
            ModelError: it is damaged, or carries no description.
        """

    @abstractmethod
    def identity(self, location: Location) -> str:
        """What provenance calls an artefact: 64 hexadecimal digits, the same for the same weights."""

    def content(self, location: Location) -> str | None:
        """SHA-256 of an artefact's graph and weights, which its digest covers together with its description.

        The digest covers no other metadata. None where the hash is kept elsewhere, as in the sidecar of an
        engine.
        """
        return None

    @abstractmethod
    def open(self, location: Location, options: Options) -> Runtime:
        """Open an artefact.

        Raises:
            ModelError: it is damaged, or not what its description says.
            BackendUnavailable: the device asked for cannot run it; says why.
        """

    def describe(self, location: Location) -> Description:
        """What ``fcn-deploy inspect`` shows of an artefact beside its spec; needs no device."""
        return Description()

    def diagnose(self) -> Description:
        """What ``fcn-deploy doctor`` shows of this machine beside :meth:`unavailable`."""
        return Description()

    def hint(self, path: Path) -> str | None:
        """For a file that no backend reads: what to do with it, where this backend knows; else None."""
        return None

    @final
    def reads(self, location: Location) -> bool:
        """Whether a file's suffix or a URL's scheme is one of its own; nothing is opened."""
        if scheme := scheme_of(location):
            return scheme in self.schemes
        return Path(location).name.lower().endswith(self.suffixes)

    @final
    def accepts(self) -> list[str]:
        """What it reads, in words: ``.onnx``, ``toy://``."""
        return [*self.suffixes, *(f"{scheme}://" for scheme in self.schemes)]

    @final
    def option_names(self) -> list[str]:
        """The options that it has."""
        return [one.name for one in dataclasses.fields(self.options)]

    @final
    def own_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``options`` that it has; None stands for an option that is not given."""
        names = self.option_names()
        return {name: value for name, value in options.items() if name in names and value is not None}


def spec_of(text: str | None, path: Path) -> ModelSpec:
    """The spec in a file's metadata.

    Args:
        text: JSON of the spec; None where the file has none.
        path: the file, for messages.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    if text is None:
        raise ModelError(
            f"{path} carries no description of fcn-deploy, so its classes and the colour order, mean and "
            f"scale of its frames are unknown; make it with: fcn-deploy export --weights ... -o {path.name} "
            "(an ONNX file of another tool: fcn-deploy wrap)"
        )
    return ModelSpec.from_json(text, str(path))
