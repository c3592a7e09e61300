"""What a long run needs of the terminal and the system: a line that lives, log lines, signals."""

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
    """SIGINT and SIGTERM call ``stop``, so that the work ends between two frames; a second one raises.

    Yields:
        What came.
    """
    seen = Stopped()

    def handle(number: int, _: object) -> None:
        if seen.signal is not None:
            raise KeyboardInterrupt
        seen.signal = number
        # What a handler interrupts may hold a lock that stop() needs.
        threading.Thread(target=stop, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def status_line(text: Callable[[], str], log_every: float | None = None) -> Iterator[None]:
    """Keep a line on stderr up to date where that is a terminal; write one now and then where asked.

    Args:
        text: makes the line; called from another thread.
        log_every: seconds between lines that stay, for logs; None writes none.
    """
    ended = threading.Event()
    with _shown(text) as say, _logged(say):

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
def _shown(text: Callable[[], str]) -> Iterator[Callable[[str], None]]:
    """Yields what writes a line that stays, above the one that lives."""
    if not sys.stderr.isatty():
        yield lambda line: typer.echo(console.harmless(line), err=True)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def renderable(line: str) -> Text:
        return Text(console.harmless(line), overflow="ellipsis", no_wrap=True)

    with Live(
        get_renderable=lambda: renderable(text()),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    ) as live:
        yield lambda line: live.console.print(Text(console.harmless(line)))


class _Handler(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        kind = "Warning: " if record.levelno >= logging.WARNING else ""
        self._say(f"{kind}{record.getMessage()}")


@contextmanager
def _logged(say: Callable[[str], None]) -> Iterator[None]:
    """Say what the camera room logs, such as a stream that is lost and found."""
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
