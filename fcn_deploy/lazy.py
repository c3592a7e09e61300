"""Heavy packages, imported where they are used and named where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from fcn_deploy.errors import MissingDependency


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


def import_tensorrt() -> ModuleType:
    """TensorRT's Python module, or TensorRT-RTX's where only that is installed.

    Raises:
        MissingDependency: neither is installed.
    """
    for name in ("tensorrt", "tensorrt_rtx"):
        if installed(name):
            module: ModuleType = require(name, extra=name.replace("_", "-"))
            return module
    raise MissingDependency(
        "neither tensorrt nor tensorrt_rtx is installed; run: pip install 'fcn-deploy[tensorrt-rtx]' "
        "(or [tensorrt] for a data-centre GPU or a Jetson)"
    )
