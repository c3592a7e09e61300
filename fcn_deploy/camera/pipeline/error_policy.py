"""Which errors end a pipeline's run, and which ones are only counted and logged."""

from __future__ import annotations

import logging
import threading
import time
from typing import final

from fcn_deploy.errors import FcnDeployError, PipelineError, UsageError, first_line

log = logging.getLogger("fcn_deploy.camera")

MAX_CONSECUTIVE_FAILURES = 50
"""Frames that may fail one after the other before the run ends under ``continue`` too."""

_LOG_INTERVAL = 10.0
"""Seconds between two log lines about failed frames: a full disk must not fill another one with logs."""


@final
class ErrorPolicy:
    """Decides whether an error ends the run, keeps the one that does, and logs the others.

    Args:
        on_error: ``stop``: the first error ends the run. ``continue``: a failed frame is skipped and a
            lost camera leaves the others running; :data:`MAX_CONSECUTIVE_FAILURES`, or the loss of the
            last camera, end the run.

    Raises:
        UsageError: ``on_error`` is another word.
    """

    def __init__(self, on_error: str) -> None:
        if on_error not in ("stop", "continue"):
            raise UsageError(f"on_error must be stop or continue, not {on_error!r}")
        self._continues = on_error == "continue"
        self._lock = threading.Lock()
        self._error: FcnDeployError | None = None
        self._lost_cameras: list[FcnDeployError] = []
        self._consecutive = 0
        self._logged_at = -_LOG_INTERVAL

    def frame_failed(self, error: Exception, what: str) -> bool:
        """The inference or the delivery of a frame, or of a group of frames, failed.

        Returns:
            Whether the run has to end.
        """
        with self._lock:
            self._consecutive += 1
            count = self._consecutive
        if not self._continues:
            return self.fatal(error, what)
        if count >= MAX_CONSECUTIVE_FAILURES:
            return self.fatal(error, f"{count} frames failed one after the other, the last one: {what}")
        if count == 1 and time.monotonic() - self._logged_at > _LOG_INTERVAL:
            self._logged_at = time.monotonic()
            log.warning("%s (%s); the pipeline goes on", what, first_line(error))
        return False

    def frame_delivered(self) -> None:
        """A frame reached every sink."""
        with self._lock:
            count, self._consecutive = self._consecutive, 0
        if count > 1:
            log.warning("%d frames failed one after the other; frames are delivered again", count)

    def camera_lost(self, error: Exception, what: str) -> bool:
        """A camera ended with an error.

        Returns:
            Whether the run has to end.
        """
        if not self._continues:
            return self.fatal(error, what)
        log.warning("%s (%s); the pipeline goes on without it", what, first_line(error))
        with self._lock:
            self._lost_cameras.append(_named(error, what))
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

    def log_error(self) -> None:
        """Log the error that would have been raised, where another exception already ends the run."""
        with self._lock:
            error = self._error
        if error is not None:
            log.error("%s", error)

    def raise_error(self, cameras: int) -> None:
        """Raise the error that ended the run, if there is one; ``cameras`` is how many there were."""
        with self._lock:
            error = self._error or (self._lost_cameras[0] if len(self._lost_cameras) == cameras else None)
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
