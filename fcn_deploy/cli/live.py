"""For commands that run for a long time: a live status line, log lines above it, and signals."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from fcn_deploy.cli import console


@dataclass
class Stopped:
    """Which signal ended the run, if one did."""

    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """As a shell expects: 128 and the signal's number."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[Stopped]:
    """SIGINT and SIGTERM call ``stop``, which ends the work between two frames; a second one raises.

    Yields:
        Which signal came.
    """
    stopped = Stopped()

    def handle(number: int, frame: object) -> None:
        if stopped.signal is not None:
            console.interrupt(number, frame)
        stopped.signal = number
        # In a thread, because the interrupted code may hold a lock that stop() needs.
        threading.Thread(target=stop, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def status_line(text: Callable[[], str], log_every: float | None = None) -> Iterator[None]:
    """Show a live status line on stderr where that is a terminal, and write log lines where asked.

    Args:
        text: makes the line; called from another thread.
        log_every: seconds between permanent lines, for logs; None writes none.
    """
    ended = threading.Event()
    with _live_line(text) as say, _logged(say):

        def log_lines() -> None:
            while log_every is not None and not ended.wait(log_every):
                say(text())

        writer = threading.Thread(target=log_lines, daemon=True)
        writer.start()
        try:
            yield
        finally:
            ended.set()
            writer.join()


@contextmanager
def _live_line(text: Callable[[], str]) -> Iterator[Callable[[str], None]]:
    """Yields a function that writes a permanent line, above the live one."""
    if not sys.stderr.isatty():
        yield lambda line: typer.echo(console.printable(line), err=True)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def renderable(line: str) -> Text:
        return Text(console.printable(line), overflow="ellipsis", no_wrap=True)

    with Live(
        get_renderable=lambda: renderable(text()),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    ) as live:
        yield lambda line: live.console.print(Text(console.printable(line)))


class _Handler(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        kind = "Warning: " if record.levelno >= logging.WARNING else ""
        self._say(f"{kind}{record.getMessage()}")


@contextmanager
def _logged(say: Callable[[str], None]) -> Iterator[None]:
    """Write what ``fcn_deploy.camera`` logs, such as a stream that is lost or reconnected."""
    log, handler = logging.getLogger("fcn_deploy.camera"), _Handler(say)
    level, propagates = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates
