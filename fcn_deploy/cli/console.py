"""Output that all commands share: text, tables, JSON, progress, and errors as one sentence.

Text goes to stdout, or to stderr where stdout carries JSON. Errors, warnings and progress always go to
stderr.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer

from fcn_deploy.errors import FcnDeployError

P = ParamSpec("P")
R = TypeVar("R")

_PROGRESS_DELAY = 2.0
"""Seconds before a progress bar appears."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the program, as Ctrl-C does.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def interrupt(number: int, _: object) -> NoReturn:
    """A signal handler that raises :class:`Interrupted`."""
    raise Interrupted(number)


def _exit_code(exc: KeyboardInterrupt) -> int:
    """As a shell expects: 128 and the signal's number."""
    return 128 + (exc.number if isinstance(exc, Interrupted) else signal.SIGINT)


class _State:
    debug = False


def set_debug(on: bool) -> None:
    """Whether errors show where they come from (``--debug``)."""
    _State.debug = on


def prepare_process() -> None:
    """Set up the process, before any large package is imported."""
    # `kill` and `timeout` end a command as Ctrl-C does, with an exit code of their own: videos are finished
    # and temporary files removed first.
    signal.signal(signal.SIGTERM, interrupt)
    # OpenCV and its FFmpeg write to stderr on their own; our errors already say what went wrong.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if not sys.warnoptions:  # python -W and PYTHONWARNINGS still show all of them
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"fcn_deploy\.")
        warnings.showwarning = lambda message, *_: warn(str(message))


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """``command`` with every error turned into one sentence on stderr and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # typer ends the process without a message
        except KeyboardInterrupt as exc:
            _exit_with("interrupted", _exit_code(exc))
        except Exception as exc:
            _exit_with(*_sentence_and_code(exc))
        return result

    return wrapper


def _sentence_and_code(exc: Exception) -> tuple[str, int]:
    """A sentence for an error, and the exit code."""
    if isinstance(exc, FcnDeployError):
        return str(exc), exc.exit_code
    if isinstance(exc, MemoryError):
        return "out of memory; use a smaller frame, a smaller batch or a smaller model", 1
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        where = f" ({exc.filename})" if exc.filename else ""
        return f"no space left on device{where}; free some space or write elsewhere", 1
    if isinstance(exc, OSError) and exc.strerror:
        where = f"{exc.filename}: " if exc.filename else ""
        return f"{where}{exc.strerror[0].lower()}{exc.strerror[1:]}", 1
    first = (str(exc).strip().splitlines() or [""])[0]
    name = f"{type(exc).__name__}: {first}" if first else type(exc).__name__
    return f"unexpected {name}; run again with --debug to see where it comes from", 1


def _exit_with(sentence: str, code: int) -> NoReturn:
    if _State.debug:
        traceback.print_exc()
    typer.echo(f"Error: {printable(sentence)}", err=True)
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try to flush it again at exit, and report the same error a second time.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    raise typer.Exit(code)


def warn(sentence: str) -> None:
    """One warning on stderr."""
    typer.echo(f"Warning: {printable(sentence)}", err=True)


def printable(text: str) -> str:
    """``text`` with control characters replaced, because names in it come from untrusted files."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


@dataclass(frozen=True)
class Printer:
    """Prints text and tables for people."""

    to_stderr: bool = False
    """Whether they go to stderr, because stdout carries data."""

    def say(self, text: str = "") -> None:
        """One line."""
        typer.echo(printable(text), err=self.to_stderr)

    def pairs(self, rows: Iterable[tuple[str, str]], indent: int = 0) -> None:
        """Names and values in two aligned columns; rows without a value are left out."""
        kept = [(name, value) for name, value in rows if value]
        width = max((len(name) for name, _ in kept), default=0)
        for name, value in kept:
            self.say(f"{'':{indent}}{name:{width}}  {value}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
        """A table whose first ``left`` columns are text and whose others are numbers."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if index < left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.render(table)

    def render(self, renderable: Any) -> None:
        """Print anything that rich can render."""
        from rich.console import Console

        stream = sys.stderr if self.to_stderr else sys.stdout
        # A file or a pager has no width to wrap at.
        Console(file=stream, width=None if stream.isatty() else 240, highlight=False).print(renderable)


def write_json(data: Any, target: Path | None = None) -> None:
    """JSON on stdout, or atomically in a file.

    Args:
        data: anything that ``json`` can write, numpy numbers and paths; NaN is an error, as it is not JSON.
        target: a file; None or ``-`` is stdout.
    """
    text = json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n"
    if target is None or str(target) == "-":
        sys.stdout.write(text)
        return
    from fcn_deploy.files import write_text

    write_text(target, text)


def _plain(value: Any) -> Any:
    """numpy's numbers, and paths, as JSON types."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, shown after two seconds; nothing where stderr is not a terminal.

    Args:
        what: the work, such as ``frames``.
        total: how many steps; None where that is unknown.

    Yields:
        A function to call after each step; it takes the number of steps where that is known only later.
    """
    if not sys.stderr.isatty():
        yield lambda total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    begun = time.monotonic()

    def advance(total: int | None = None) -> None:
        bar.update(task, advance=1, total=total)
        if not bar.live.is_started and time.monotonic() - begun > _PROGRESS_DELAY:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """A live status line on stderr that names the current step; nothing where stderr is not a terminal.

    Yields:
        A function to call with the name of each step as it begins.
    """
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update
