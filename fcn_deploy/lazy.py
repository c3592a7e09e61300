"""Heavy packages, imported where they are used and named where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from fcn_deploy.errors import MissingDependency, UsageError

TENSORRT_MODULES = {
    "auto": ("tensorrt", "tensorrt_rtx"),
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt_rtx",),
}
_TENSORRT_MISSING = {
    "auto": "neither tensorrt nor tensorrt_rtx is installed; run: pip install 'fcn-deploy[tensorrt-rtx]' "
    "(or [tensorrt] for a data-centre GPU or a Jetson)",
    "tensorrt": "tensorrt is not installed; run: pip install 'fcn-deploy[tensorrt]' (a Jetson has it from "
    "JetPack)",
    "rtx": "tensorrt_rtx is not installed; run: pip install 'fcn-deploy[tensorrt-rtx]'",
}


def require(module: str, *, extra: str) -> Any:
    """Import ``module``, or say which extra brings it.

    Returns Any on purpose: the packages behind it are optional and mostly untyped.

    Raises:
        MissingDependency: it is not installed, or its own import fails.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as exc:  # OSError: a shared library that it needs is missing
        if isinstance(exc, ModuleNotFoundError) and (exc.name or "").split(".")[0] == module.split(".")[0]:
            reason = f"{module.split('.')[0]} is not installed"
        else:
            reason = f"{module} is installed and fails to import ({exc})"
        raise MissingDependency(f"{reason}; run: pip install 'fcn-deploy[{extra}]'") from exc


def installed(module: str) -> bool:
    """Whether ``module`` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version_of(package: str) -> str | None:
    """The version of an installed package, by the name that pip knows; None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def import_tensorrt(flavor: str = "auto") -> ModuleType:
    """TensorRT's Python module, or TensorRT-RTX's.

    Args:
        flavor: ``tensorrt``, ``rtx``, or ``auto`` for the first of the two that can be imported.

    Raises:
        UsageError: another flavor.
        MissingDependency: it is not installed, or its own import fails.
    """
    if flavor not in TENSORRT_MODULES:
        raise UsageError(f"unknown flavor {flavor!r}; choose from auto, tensorrt, rtx")
    problems = []
    for name in TENSORRT_MODULES[flavor]:
        if installed(name):
            try:
                module: ModuleType = require(name, extra=name.replace("_", "-"))
                return module
            except MissingDependency as exc:
                problems.append(exc)
    if problems:
        raise problems[0]
    raise MissingDependency(_TENSORRT_MISSING[flavor])
