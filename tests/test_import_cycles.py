"""No two modules import each other, imports for type checkers included.

What a function imports when it runs is left out: that is how heavy libraries wait for their use.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fcn_deploy

PACKAGE = Path(fcn_deploy.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module) -> Iterator[str]:
    """``package.module`` and ``package.module.name`` of each import outside functions."""
    pending: list[ast.AST] = [tree]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            pending.append(node)
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> those of the same package that it imports. ``fcn_deploy`` itself looks names up when they are
    used, so its imports are for type checkers alone and left out."""
    return {
        name: {found for found in imports_of(ast.parse(text)) if found in sources and found != name}
        for name, text in sources.items()
        if name != "fcn_deploy"
    }


def test_no_module_imports_itself_in_a_circle() -> None:
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    tuple(graphlib.TopologicalSorter(import_graph(sources)).static_order())  # CycleError names the circle


def test_a_planted_circle_is_found_also_one_of_types_alone() -> None:
    planted = {
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import B\n",
        "b": "import a\n",
    }
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(import_graph(planted)).static_order())
