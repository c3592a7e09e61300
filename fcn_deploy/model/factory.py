"""A factory that the user names -> the module that it makes.

This runs the code that the user names, and never code from a checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import nn

from fcn_deploy.errors import ModelError, UsageError, first_line


def build_module(factory: str) -> nn.Module:
    """Call a factory and return the module that it makes.

    Args:
        factory: ``package.module:function`` or ``file.py:function``; a class with no arguments will do.
            Imports in that code look into the file's own folder first, or into the current one.

    Raises:
        UsageError: it cannot be found.
        ModelError: it raises, or returns something else than a module.
    """
    place, _, name = factory.rpartition(":")
    if not place or not name:
        raise UsageError(f"--model {factory}: expected package.module:function or file.py:function")
    with _imports_from(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()):
        made = _called(_function(factory, place, name), factory)
    if isinstance(made, nn.Module):
        return made
    raise ModelError(f"{factory} returned {type(made).__name__}; a torch.nn.Module is expected")


def short_factory(factory: str) -> str:
    """How a description names it: a file without its folders."""
    place, _, name = factory.rpartition(":")
    return f"{Path(place).name if place.endswith('.py') else place}:{name}"


def _called(function: Callable[[], Any], factory: str) -> Any:
    try:
        return function()
    except Exception as exc:  # whatever the user's code raises
        raise ModelError(f"{factory} failed ({type(exc).__name__}: {first_line(exc)})") from exc


def _function(factory: str, place: str, name: str) -> Callable[[], Any]:
    if place.endswith(".py") and not Path(place).is_file():
        raise UsageError(f"--model {factory}: there is no file {place}")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as exc:  # whatever is raised while the user's code is imported
        raise UsageError(
            f"--model {factory}: {place} cannot be imported ({type(exc).__name__}: {first_line(exc)})"
        ) from exc
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"--model {factory}: there is no function {name} in {place}; it has {_names(vars(module))}"
        )
    return cast("Callable[[], Any]", found)


def _module_of_file(path: Path) -> Any:
    name = f"fcn_deploy_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Imports look into a folder first, as those of a script do."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _names(found: Iterable[str]) -> str:
    public = [name for name in found if not name.startswith("_")]
    return ", ".join(public[:8]) or "no public name"
