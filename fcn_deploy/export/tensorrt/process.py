"""The parent's side of the process that builds: start it, read its messages, and always end it."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from fcn_deploy.child import OUT_OF_MEMORY, command, environment, last_line, signal_of
from fcn_deploy.errors import EngineError
from fcn_deploy.export.tensorrt.pipe import LOGGER, receive
from fcn_deploy.export.tensorrt.request import BuildRequest, Built, Reporter

MODULE = "fcn_deploy.export.tensorrt.worker"
"""What the process runs."""

_END_TIMEOUT = 5.0
"""Seconds that the process may take to end."""

_POLL = 0.5
"""Seconds of one wait for a message: on Windows, Ctrl-C is noticed only between two waits."""


def build_in_child(request: BuildRequest, reporter: Reporter, timeout: float | None) -> Built:
    """Build in a process of its own; may be called in any thread.

    Args:
        request: what to build.
        reporter: called in this thread; an exception that it raises ends the build and is raised here.
        timeout: seconds; None waits without limit.

    Raises:
        EngineError: the process crashed, was killed, or took longer than ``timeout``.
        FcnDeployError: what :func:`fcn_deploy.export.tensorrt.worker.build` raises.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="fcn-deploy-") as folder, _Child(request, Path(folder)) as child:
        while time.monotonic() < deadline:
            line = child.read(min(_POLL, deadline - time.monotonic()))
            if line is not None and (built := receive(line, reporter)):
                return built
    raise EngineError(
        f"{request.target} was not built within {timeout:g} s and the build was ended; allow more time, or "
        "lower the optimization level"
    )


class _Child:
    """The process; a context manager that ends it.

    Args:
        request: what it is asked for.
        folder: for the request and for what the process writes to stderr.
    """

    def __init__(self, request: BuildRequest, folder: Path) -> None:
        self._target = request.target
        self._stderr = folder / "stderr"
        job = folder / "request.json"
        # Warnings always, because they are counted in the child; this process's own logger drops them again.
        # In the child, level 0 (NOTSET) would mean the level of its root logger, which is WARNING.
        level = max(1, min(logging.getLogger(LOGGER).getEffectiveLevel(), logging.WARNING))
        try:
            job.write_text(request.to_json(), encoding="utf-8")
            with open(self._stderr, "wb") as stderr:
                self._process = subprocess.Popen(
                    [*command(MODULE), str(job), str(level)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment(),
                    start_new_session=True,  # Ctrl-C is for this process alone
                )
        except OSError as exc:
            raise EngineError(f"the process that builds {self._target} cannot be started: {exc}") from exc
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """What was read; None where the process has closed the pipe."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def read(self, seconds: float) -> bytes | None:
        """The next message; None where there is none within ``seconds``.

        Raises:
            EngineError: the process has ended without a result or an error.
        """
        try:
            line = self._lines.get(timeout=max(seconds, 0))
        except queue.Empty:
            return None
        if line is None:
            raise EngineError(self._how_it_ended())
        return line

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, whatever it does; a second Ctrl-C only makes this quicker."""
        self._process.terminate()
        try:
            self._wait()
        finally:
            self._process.kill()
            self._wait()
            self._reader.join(_END_TIMEOUT)
            self._stdout.close()

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT)

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # Popen was called with PIPE
        return self._process.stdout

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed, where the process could not be ended
            for line in self._stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _how_it_ended(self) -> str:
        self._wait()
        code = self._process.returncode
        last = last_line(self._stderr)
        detail = f" (its last line: {last})" if last else ""
        name = None if code is None else signal_of(code)
        if name == OUT_OF_MEMORY:
            return (
                f"the process that built {self._target} was killed with {name}, as the system does where "
                f"memory runs out{detail}; lower the profile's maximum, use --fp16, or close other programs"
            )
        if name is None:
            return f"the process that built {self._target} ended without an engine, exit code {code}{detail}"
        return (
            f"the process that built {self._target} crashed with {name}{detail}; this is a fault inside "
            "TensorRT: try again, or try another profile or another version of TensorRT"
        )
