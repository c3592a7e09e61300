"""Where an artefact is: a file, or a URL for backends that read one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fcn_deploy.errors import UsageError
from fcn_deploy.files import input_file

Location = Path | str
"""A Path to an existing file, or a URL as it was given."""

# Two letters at least: C:// is a drive.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CHANGED_BY_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")


def locate(path: str | os.PathLike[str]) -> Location:
    """``path`` as a Path to an existing file, or as a URL where it has a scheme.

    Raises:
        UsageError: a file is missing, a folder, empty or unreadable; or a URL was made a Path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"an artefact is a file or a URL, given as text or a Path, not {path!r}")
    text = os.fspath(path)
    if scheme_of(text):
        return text
    if isinstance(path, Path) and _CHANGED_BY_PATH.match(path.as_posix()) and not path.exists():
        raise UsageError(f"{path} looks like a URL; give it as a str, because a Path joins its slashes")
    return input_file(Path(text), "artefact")


def scheme_of(location: Location) -> str:
    """``toy+grpc`` of ``toy+grpc://host/name``, in lower case; empty for a file."""
    match = _URL.match(location) if isinstance(location, str) else None
    return match[1].lower() if match else ""


def shown(path: str | os.PathLike[str]) -> str:
    """What results and JSON show: a file as it was given, or a URL without user, password and query."""
    text = os.fspath(path)
    return short_name(text) if scheme_of(text) else text


def short_name(location: Location) -> str:
    """What tables and messages show: a bare file name, or a URL without user, password and query."""
    if isinstance(location, Path):
        return location.name
    if not scheme_of(location):
        return Path(location).name
    scheme, _, rest = location.partition("://")
    host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
