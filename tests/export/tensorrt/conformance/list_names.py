"""Print, as JSON, every public name that a TensorRT module and its classes have. Names are facts."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from types import ModuleType
from typing import Any


def names_of(module: ModuleType) -> dict[str, list[str]]:
    """Class -> its members, inherited ones too; under ``""`` the module's own names."""
    own = _public(module)
    classes = [name for name in own if inspect.isclass(getattr(module, name))]
    # Layers of hand-made networks, and what plugins are written with, are no part of what is called here.
    kept = [name for name in classes if not re.search(r"Plugin|^I\w*Layer$", name)]
    nested = {
        f"{name}.{inner}": _public(getattr(getattr(module, name), inner))
        for name in kept
        for inner in _public(getattr(module, name))
        if inspect.isclass(getattr(getattr(module, name), inner))
    }
    return {"": own, **{name: _public(getattr(module, name)) for name in kept}, **nested}


def _public(holder: Any) -> list[str]:
    return sorted(name for name in dir(holder) if not name.startswith("_"))


def main(name: str) -> None:
    module = importlib.import_module(name)
    listing = {"version": module.__version__, "names": names_of(module)}
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in listing["names"].items())
    print(
        f'{{\n "version": {json.dumps(listing["version"])},\n "names": {{\n' + ",\n".join(lines) + "\n }\n}"
    )


if __name__ == "__main__":
    main(sys.argv[1])
