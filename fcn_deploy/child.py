"""Child processes for work that may crash, hang or be killed: helpers for both sides.

A child runs one module (:func:`command`), never :mod:`multiprocessing`, which would run the user's script a
second time. It writes its messages to stdout, one JSON object a line; what libraries print goes to stderr.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

OUT_OF_MEMORY = "SIGKILL"
"""The signal that the system ends a process with where memory runs out."""


_RUN_MODULE = """
import sys
if sys.path and sys.path[0] == "":
    del sys.path[0]
del sys.argv[0]
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""``python -m`` without the working folder in front of the path, which PYTHONSAFEPATH leaves out only since
Python 3.11."""


def command(module: str) -> tuple[str, ...]:
    """For the parent: the command that runs ``module`` in a child; its arguments follow.

    Start it with :func:`environment`.

    Raises:
        FileNotFoundError: ``sys.executable`` is empty.
    """
    if not sys.executable:
        raise FileNotFoundError(
            "sys.executable names no Python, as in a program that embeds it; set it to the path of one"
        )
    return (sys.executable, "-c", _RUN_MODULE, module)


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """For the parent: variables of the child, which finds every module that its parent finds.

    Args:
        variables: more of them.
    """
    # Python ignores an entry that is not a string, such as a Path.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str))
    own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **(variables or {}), **own}


def signal_of(code: int) -> str | None:
    """For the parent: the signal that ended a child, such as ``SIGSEGV``; None where none did.

    Args:
        code: its return code; a shell between the two returns 128 + the signal.
    """
    number = -code if code < 0 else code - 128
    if number <= 0 or os.name != "posix":
        return None
    known = {member.value: member.name for member in signal.Signals}
    return known.get(number, f"signal {number}" if code < 0 else None)


def last_line(stderr: Path) -> str:
    """For the parent: the last line that the child wrote to its stderr, cut to 300 characters, or ''."""
    lines = stderr.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def follow_parent() -> None:
    """For the child: leave Ctrl-C to the parent, and on Linux end when it ends, however that happens.

    Linux means the thread that started the child: this thread must not end before the child.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def take_stdout() -> IO[bytes]:
    """For the child: the pipe to the parent. What is printed from now on goes to stderr."""
    stream = os.fdopen(os.dup(1), "wb")
    stream.write(b"\n")  # ends a line that something has begun to print; the parent ignores such lines
    stream.flush()
    os.dup2(2, 1)
    return stream
