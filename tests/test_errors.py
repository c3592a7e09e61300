"""The tree in the docstring of errors.py is the real one, and every error is used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fcn_deploy import errors

PACKAGE = Path(errors.__file__).parent


def drawn_tree() -> dict[str, str]:
    """Class name -> name of its parent, read from the drawing."""
    tree: dict[str, str] = {}
    ancestors: list[str] = []
    for line in re.findall(r"^ {4}.*$", errors.__doc__ or "", re.MULTILINE):
        drawing, name = re.fullmatch(r" {4}([ │├└─]*)([A-Z]\w+).*", line).groups()
        depth = len(drawing) // 4
        ancestors[depth:] = [name]
        if depth:
            tree[name] = ancestors[depth - 1]
    return tree


def defined_classes() -> dict[str, type[errors.FcnDeployError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FcnDeployError)
    }


def raised_names() -> set[str]:
    """Names of the classes that some module of the package raises."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                called = node.exc.func
                names.add(called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", ""))
    return names


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {name: cls.__bases__[0].__name__ for name, cls in defined_classes().items()}
    assert drawn_tree() == real


def test_the_drawing_keeps_the_order_of_the_code() -> None:
    assert list(drawn_tree()) == list(defined_classes())


@pytest.mark.parametrize("name", sorted(defined_classes()))
def test_each_error_explains_itself_and_has_an_exit_code(name: str) -> None:
    cls = defined_classes()[name]
    assert (cls.__doc__ or "").strip().endswith(".")
    assert cls.exit_code in (1, 2)


def test_each_error_is_raised_somewhere() -> None:
    parents = {base.__name__ for cls in defined_classes().values() for base in cls.__bases__}
    leaves = set(defined_classes()) - parents
    assert leaves <= raised_names()


def test_wrong_use_is_told_apart_from_a_failed_run() -> None:
    assert errors.SourceError("no frame").exit_code == 2
    assert errors.ModelError("no variant").exit_code == 2
    assert errors.InferenceError("out of memory").exit_code == 1
