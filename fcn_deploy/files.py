"""Atomic writes and hashes: an interrupted run leaves the old file or the new one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fcn_deploy.errors import UsageError

_CHUNK = 1 << 20


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as 64 lower-case hexadecimal digits."""
    return _digest_of(path, hashlib.sha256())


def md5_of(path: str | Path) -> str:
    """MD5 of a file as 32 lower-case hexadecimal digits: to recognise published files, not to trust them."""
    return _digest_of(path, hashlib.md5(usedforsecurity=False))


def _digest_of(path: str | Path, digest: hashlib._Hash) -> str:
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def input_file(path: str | Path, what: str) -> Path:
    """``path`` as a readable, non-empty file.

    Args:
        path: what the user named.
        what: the word for it in messages, such as ``"ONNX file"``.

    Raises:
        UsageError: it is missing, a folder, empty, or may not be read.
    """
    found = Path(path)
    if found.is_dir():
        raise UsageError(f"{found} is a folder; a file was expected ({what})")
    if not found.exists():
        raise UsageError(f"{found} does not exist; give the path of an existing file ({what})")
    if not os.access(found, os.R_OK):
        raise UsageError(f"{found} may not be read; check its permissions ({what})")
    if found.stat().st_size == 0:
        raise UsageError(f"{found} is empty (0 bytes); it was probably cut off while being written")
    return found


def check_output(path: str | Path, suffixes: tuple[str, ...] = (), option: str = "") -> Path:
    """Refuse a file that cannot be written before the work begins.

    Args:
        path: where the file will go.
        suffixes: the endings that its name may have; none accepts any.
        option: of the command line that named it, for messages.

    Raises:
        UsageError: the name has another ending, it is a folder, or its folder is missing or cannot be
            written.
    """
    target = Path(path)
    named = f"{option} {target}" if option else str(target)
    if suffixes and target.suffix.lower() not in suffixes:
        raise UsageError(f"{named}: the name must end in {' or '.join(suffixes)}")
    if target.is_dir():
        raise UsageError(f"{named} is a folder; name the file to write in it")
    if not target.parent.is_dir():
        raise UsageError(f"{named}: the folder {target.parent} does not exist; create it first")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{named}: cannot write into {target.parent}; check its permissions")
    return target


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without error.

    The temporary name keeps the suffix, because encoders choose their format by it. On an error,
    Ctrl-C included, it is removed and an old file at ``path`` stays.

    An OSError of the block becomes a UsageError where it is about this file, or names no file, as that of a
    full disk. An error about another file is raised as it is.

    Raises:
        UsageError: the folder does not exist or cannot be written, ``path`` is a folder, or the file cannot
            be written.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name the file to write in it")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist; create it first")
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}.", suffix=f".part{target.suffix}", dir=target.parent
        )
    except OSError as exc:
        raise UsageError(f"cannot write into {target.parent}: {exc.strerror}") from exc
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(_default_mode())
        temporary.replace(target)
    except OSError as exc:
        # By name, because a library may have made the path absolute. The temporary name is unique.
        if exc.filename is None or Path(str(exc.filename)).name in (temporary.name, target.name):
            raise UsageError(f"cannot write {target}: {exc.strerror or exc}") from exc
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically. Raises as :func:`atomic_output` does."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 text file atomically. Raises as :func:`atomic_output` does."""
    write_bytes(path, text.encode())


def output_folder(path: str | Path) -> Path:
    """``path`` as a folder that exists and can be written; created where missing.

    Raises:
        UsageError: there is a file of that name, or it cannot be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as exc:
        raise UsageError(f"{folder} is a file; a folder was expected") from exc
    except OSError as exc:
        raise UsageError(f"cannot create the folder {folder}: {exc.strerror}") from exc
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write into {folder}; check its permissions")
    return folder


def require_space(folder: str | Path, needed: int) -> None:
    """Refuse early where ``needed`` bytes will not fit.

    Raises:
        UsageError: the disk that holds ``folder`` has less free space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{folder} has {free / 1e6:.3g} MB free and {needed / 1e6:.3g} MB are needed; "
            "free some space or write elsewhere"
        )


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _default_mode() -> int:
    """The mode that open() would have given (mkstemp gives 0600)."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
