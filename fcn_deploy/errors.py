"""Every error that fcn_deploy raises on purpose.

::

    Exception
    └── FcnDeployError             catch this one to catch them all
        ├── UsageError             the call itself is wrong (the CLI exits with 2)
        │   └── SourceError        a frame, image, label, video or folder cannot be used
        ├── MissingDependency      an optional package is not installed
        ├── ModelError             a checkpoint or a model description is wrong
        ├── ExportError            a graph could not be made
        │   └── ParityError        it was made and does not give what its reference gives
        ├── CalibrationError       ranges could not be taken from the frames given
        ├── EngineError            an engine could not be built, or may not be loaded
        ├── BackendUnavailable     the backend asked for cannot run on this machine
        ├── InferenceError         a backend failed while it ran
        └── PipelineError          a camera was lost, or a sink failed, while a pipeline ran

Errors of vendors' libraries are mapped onto these with ``raise ... from exc``, so the cause is
kept and ``--debug`` shows it.
"""

from __future__ import annotations


class FcnDeployError(Exception):
    """The base of all of them. Its message is one sentence that says what is wrong and what to do."""

    exit_code = 1
    """What the CLI exits with: 1 a run that failed, 2 wrong use."""


class UsageError(FcnDeployError):
    """The arguments cannot be used as they are."""

    exit_code = 2


class SourceError(UsageError):
    """A frame, image, label, video or folder is missing, unreadable or of the wrong kind."""


class MissingDependency(FcnDeployError):
    """An optional package is not installed; the message names the extra that brings it."""


class ModelError(FcnDeployError):
    """A checkpoint, a variant or a model description is wrong."""

    exit_code = 2


class ExportError(FcnDeployError):
    """A graph could not be exported or converted."""


class ParityError(ExportError):
    """An artefact does not give what its reference gives; nothing was written."""


class CalibrationError(FcnDeployError):
    """Ranges could not be taken from the calibration frames."""


class EngineError(FcnDeployError):
    """An engine could not be built, or is not fit to be loaded here."""


class BackendUnavailable(FcnDeployError):
    """The backend or provider asked for cannot run on this machine; the message says why."""


class InferenceError(FcnDeployError):
    """A backend failed while it ran; the vendor's own error is the cause."""


class PipelineError(FcnDeployError):
    """A camera or stream was lost, or a sink failed, while a pipeline ran."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
