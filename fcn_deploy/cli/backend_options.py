"""``--option NAME=VALUE``: any option of a backend, read by the types in its class of options."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.backend import Backend, BackendOptions


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError(text)


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_TYPES: dict[object, tuple[str, Callable[[str], object]]] = {
    bool: ("true or false", _bool),
    int: ("a whole number", int),
    float: ("a number", float),
    type(None): ("none", _none),
    str: ("text", str),
}
"""Types of a field, with their names in messages and how they are read, in the order of the tries."""


def options_for(artefact: str, backend: str | None, texts: Sequence[str], **typed: Any) -> dict[str, Any]:
    """The options with which an artefact is opened.

    Args:
        artefact: a file or URL.
        backend: as ``--backend`` names it; None takes the one that :func:`fcn_deploy.load` would.
        texts: values of ``--option``.
        typed: options of a backend that are options of the command too.

    Raises:
        UsageError: as :func:`read_options` and :func:`with_typed`; or no backend reads the artefact.
    """
    if not texts:
        return typed
    from fcn_deploy.runtimes.location import locate
    from fcn_deploy.runtimes.registry import backend_for

    return with_typed(read_options(texts, [backend_for(locate(artefact), backend)]), typed)


def read_options(texts: Iterable[str], chosen: Sequence[Backend[Any]]) -> dict[str, Any]:
    """``["shift=1"]`` -> ``{"shift": 1}``.

    Args:
        texts: each NAME=VALUE.
        chosen: the backends that are used; the first that has an option reads it.

    Raises:
        UsageError: one has no ``=`` or stands twice, no backend has it, or its value is not of the type that
            the backend says.
    """
    from fcn_deploy.runtimes.registry import check_options

    split: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--option {text}: expected NAME=VALUE, such as threads=2")
        if name in split:
            raise UsageError(f"--option {name} is given twice; give it once")
        split[name] = value
    check_options(chosen, split)
    return {
        name: _read(name, value, next(one.options for one in chosen if name in one.option_names()))
        for name, value in split.items()
    }


def with_typed(read: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Both together. Raises UsageError where an option is given in both ways."""
    for name in read:
        if typed.get(name) is not None:
            raise UsageError(f"--option {name} and --{name.replace('_', '-')} are one option; give it once")
    return {**typed, **read}


def _read(name: str, text: str, options: type[BackendOptions]) -> object:
    accepted = _accepted(name, options)
    wanted = [found for kind, found in _TYPES.items() if kind in accepted]
    if not wanted:
        raise UsageError(f"--option {name}: its value cannot be given as text, only in Python")
    for _, read in wanted:
        try:
            return read(text)
        except ValueError:
            continue
    raise UsageError(f"--option {name}={text}: expected {' or '.join(words for words, _ in wanted)}")


def _accepted(name: str, options: type[BackendOptions]) -> tuple[object, ...]:
    """The types that a field may have; none where they cannot be found out."""
    try:
        hint = typing.get_type_hints(options)[name]
    except Exception:  # a name that is imported for a type checker only, and whatever else a package does
        return ()
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
