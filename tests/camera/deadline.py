"""Time limits for tests: a call that takes too long fails with the stack of every thread."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def in_time(act: Callable[[], Result], seconds: float = 2.0) -> Result:
    """What ``act`` returns or raises, called in a thread, so that a deadlock fails the test.

    Raises:
        AssertionError: it took longer; the message holds the stack of every thread.
    """
    returned: list[Result] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            returned.append(act())
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=call, daemon=True, name="in_time")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise AssertionError(f"not done after {seconds} s\n{stacks()}")
    if raised:
        raise raised[0]
    return returned[0]


def soon(condition: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether it becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def stacks() -> str:
    """The stack of every thread: its last calls."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident)}:\n{''.join(traceback.format_stack(top, limit=8))}"
        for ident, top in sys._current_frames().items()
    )
