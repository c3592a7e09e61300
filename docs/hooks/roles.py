"""For the generated reference: the roles in our docstrings become code, with a link where there is a target.

Docstrings have roles of reStructuredText, such as ``:class:`~fcn_deploy.spec.ModelSpec```, and the site is
written in Markdown. Targets that are on no page become plain code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites each docstring once, when its object is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, obj: griffe.Object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda role: _link(obj, role[1], role[2]), obj.docstring.value)
        for member in obj.members.values():
            if not member.is_alias:
                self._rewrite(member)


def _link(obj: griffe.Object, short: str, name: str) -> str:
    """A link that stays plain code where no page has the target."""
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{_path(obj, name)}" optional><code>{shown}</code></autoref>'


def _path(obj: griffe.Object, name: str) -> str:
    """The path by which the site knows a name: that of the place where it is defined."""
    first, dot, rest = name.partition(".")
    try:
        path = name if first == "fcn_deploy" else f"{obj.resolve(first)}{dot}{rest}"
        return obj.modules_collection[path].canonical_path
    except (KeyError, griffe.GriffeError):
        return name
