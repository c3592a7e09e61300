"""What goes wrong while a pipeline runs, and whether the run goes on."""

from __future__ import annotations

import logging
import threading
import time
from typing import final

from fcn_deploy.errors import FcnDeployError, PipelineError, UsageError
from fcn_deploy.runtimes.base import first_line

log = logging.getLogger("fcn_deploy.camera")


MOST_IN_A_ROW = 50
"""Frames that may fail one after the other before a run that was to go on ends after all."""


QUIET = 10.0
"""Seconds from one line about a failed frame to the next: a full disk must not fill another one with logs."""


@final
class Faults:
    """Keeps the error that a run ends with, and says in the log what it does not end with.

    Args:
        on_error: ``stop``: the first error ends the run. ``continue``: a failed frame is given up and a
            lost camera leaves the others running; :data:`MOST_IN_A_ROW` failed frames in a row, or the
            loss of the last camera, end the run.

    Raises:
        UsageError: ``on_error`` is another word.
    """

    def __init__(self, on_error: str) -> None:
        if on_error not in ("stop", "continue"):
            raise UsageError(f"on_error must be stop or continue, not {on_error!r}")
        self._goes_on = on_error == "continue"
        self._lock = threading.Lock()
        self._error: FcnDeployError | None = None
        self._lost: list[FcnDeployError] = []
        self._row = 0
        self._said = -QUIET

    def frame_failed(self, error: Exception, what: str) -> bool:
        """A frame, or a group of them, got no answer or was not taken by a sink.

        Returns:
            Whether the run has to end.
        """
        with self._lock:
            self._row += 1
            row = self._row
        if not self._goes_on:
            return self.fatal(error, what)
        if row >= MOST_IN_A_ROW:
            return self.fatal(error, f"{row} frames failed one after the other, the last one: {what}")
        if row == 1 and time.monotonic() - self._said > QUIET:
            self._said = time.monotonic()
            log.warning("%s (%s); the pipeline goes on", what, first_line(error))
        return False

    def frame_done(self) -> None:
        """A frame reached every sink."""
        with self._lock:
            row, self._row = self._row, 0
        if row > 1:
            log.warning("%d frames failed one after the other; now they pass again", row)

    def camera_lost(self, error: Exception, what: str) -> bool:
        """A camera ended with an error.

        Returns:
            Whether the run has to end.
        """
        if not self._goes_on:
            return self.fatal(error, what)
        log.warning("%s (%s); the pipeline goes on without it", what, first_line(error))
        with self._lock:
            self._lost.append(_named(error, what))
        return False

    def fatal(self, error: Exception, what: str) -> bool:
        """Keep the first error; later ones are logged. Returns True: the run has to end."""
        with self._lock:
            first = self._error is None
            if first:
                self._error = _named(error, what)
        if not first:
            log.warning("%s (%s)", what, first_line(error))
        return True

    def tell(self) -> None:
        """Say what the run would have ended with, where something else already ends it."""
        with self._lock:
            error = self._error
        if error is not None:
            log.error("%s", error)

    def raise_error(self, cameras: int) -> None:
        """Raise what the run ends with, if anything; ``cameras`` is how many there were."""
        with self._lock:
            error = self._error or (self._lost[0] if len(self._lost) == cameras else None)
        if error is not None:
            raise error


def _named(error: Exception, what: str) -> FcnDeployError:
    """The error with what failed in its text; the project's own errors keep their class."""
    if isinstance(error, FcnDeployError):
        named = error if str(error).startswith(what) else type(error)(f"{what}: {error}")
    else:
        named = PipelineError(f"{what} ({type(error).__name__}: {first_line(error)})")
    if named is not error:
        named.__cause__ = error
    return named
