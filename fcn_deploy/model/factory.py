"""A factory that the user names -> the module that it makes.

This runs the code that the user names, and never code from a checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fcn_deploy.errors import ModelError, UsageError, first_line


def build_module(factory: str) -> nn.Module:
    """Call a factory and return the module that it makes.

    Args:
        factory: ``package.module:function`` or ``file.py:function``. The function takes no arguments; a
            class or a module that is built already will do. Imports in that code look into the file's own
            folder first, or into the current one.

    Raises:
        UsageError: it cannot be found, or needs arguments.
        ModelError: it raises, or returns something else than a module.
    """
    place, _, name = factory.rpartition(":")
    if not place or not name:
        raise UsageError(f"--model {factory}: expected package.module:function or file.py:function")
    with _imports_from(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()):
        found = _found(factory, place, name)
        made = found if isinstance(found, nn.Module) else _called(found, factory)
    if isinstance(made, nn.Module):
        return made
    raise ModelError(f"{factory} returned {type(made).__name__}; a torch.nn.Module is expected")


def short_factory(factory: str) -> str:
    """How a description names it: a file without its folders."""
    place, _, name = factory.rpartition(":")
    return f"{Path(place).name if place.endswith('.py') else place}:{name}"


def _called(function: Callable[[], Any], factory: str) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as exc:
        raise UsageError(
            f"--model {factory}: a factory is called without arguments ({exc}); name a function that fills "
            "them in"
        ) from exc
    except ValueError:  # a function of an extension says nothing about its arguments
        pass
    try:
        return function()
    except (Exception, SystemExit) as exc:  # whatever the user's code raises
        raise ModelError(f"{factory} failed ({type(exc).__name__}: {first_line(exc)})") from exc


def _found(factory: str, place: str, name: str) -> Any:
    """What has that name: a function, a class or a module."""
    if place.endswith(".py") and not Path(place).is_file():
        raise UsageError(f"--model {factory}: there is no file {place}")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except SystemExit as exc:
        raise UsageError(
            f"--model {factory}: {place} ends the program while it is imported; put what it runs as a script "
            'under: if __name__ == "__main__"'
        ) from exc
    except Exception as exc:  # whatever is raised while the user's code is imported
        raise UsageError(
            f"--model {factory}: {place} cannot be imported ({type(exc).__name__}: {first_line(exc)})"
        ) from exc
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"--model {factory}: there is no function {name} in {place}; it has {_factories(module)}"
        )
    return found


def _module_of_file(path: Path) -> ModuleType:
    name = f"fcn_deploy_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Imports look into a folder first, as those of a script do."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _factories(module: ModuleType) -> str:
    """The functions and classes that a module defines itself."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(names[:8]) or "none"
