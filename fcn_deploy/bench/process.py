"""The parent's side of a worker process: send requests, wait with a timeout, pause it, and end it."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fcn_deploy.child import OUT_OF_MEMORY, command, environment, last_line, signal_of
from fcn_deploy.errors import InferenceError

MODULE = "fcn_deploy.bench.worker"
"""What the process runs."""

CAN_PAUSE = hasattr(signal, "SIGSTOP")
"""Whether the system can stop a process and let it continue. Windows cannot."""

_END_TIMEOUT = 5.0
"""Seconds that a process may take to end."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Read by numeric libraries once, when they are imported: so they are set before the child starts."""


class WorkerProcess:
    """One child process that handles requests in order; a context manager that ends it.

    Args:
        folder: where its stderr is kept.
        name: unique among the children of ``folder``.
        threads: how many its numeric libraries use.

    Raises:
        InferenceError: it cannot be started.
    """

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self._errors = folder / f"{name}.stderr"
        try:
            with open(self._errors, "wb") as errors:
                self._process = subprocess.Popen(
                    command(MODULE),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))),
                )
        except OSError as exc:
            raise InferenceError(f"its process cannot be started: {exc}") from exc
        self._responses: queue.Queue[dict[str, Any] | None] = queue.Queue()
        """What was read; None where the process has closed its stdout."""
        self._numbers = itertools.count(1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, do: str, *, timeout: float, **fields: Any) -> dict[str, Any]:
        """Send one request and wait for the response.

        Args:
            do: the name of the request.
            timeout: seconds to wait.
            fields: what JSON can hold.

        Raises:
            InferenceError: the worker reported an error, ended, or did not respond in time. In the last
                two cases it has ended, and every later request fails the same way.
        """
        number = next(self._numbers)
        end = time.monotonic() + timeout
        self._send({"id": number, "do": do, **fields})
        while True:
            try:
                response = self._responses.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                self.close()
                raise InferenceError(
                    f"its process did not respond within {timeout:.0f} s ({do}) and was ended"
                ) from None
            if response is None:
                self._responses.put(None)
                raise InferenceError(self._how_it_ended())
            if response["id"] != number:
                continue
            if "error" in response:
                raise InferenceError(response["error"])
            return response

    def pause(self) -> None:
        """Stop it with all its threads until :meth:`resume`."""
        if CAN_PAUSE:
            self._signal("SIGSTOP")

    def resume(self) -> None:
        """Let it continue."""
        if CAN_PAUSE:
            self._signal("SIGCONT")

    def close(self) -> None:
        """End it at once, paused or not; closing twice is harmless."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may block it; the benchmark continues
            self._process.wait(_END_TIMEOUT)
        self._reader.join(_END_TIMEOUT)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                _open(pipe).close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, request: dict[str, Any]) -> None:
        # That the child has ended is noticed where its response is waited for.
        with contextlib.suppress(OSError, ValueError):
            pipe = _open(self._process.stdin)
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in _open(self._process.stdout):
                if response := _parse(line):
                    self._responses.put(response)
        self._responses.put(None)

    def _signal(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(getattr(signal, name))

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.close()
            return "its process closed its stdout without a response and was ended"
        said = last_line(self._errors)
        last = f"; the last line of its stderr: {said}" if said else ""
        if name := signal_of(code):
            hint = ", which the system sends where memory runs out" if name == OUT_OF_MEMORY else ""
            return f"its process was ended by {name}{hint}{last}"
        return f"its process ended by itself with exit code {code}{last}"


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # Popen was called with PIPE for both
    return pipe


def _parse(line: bytes) -> dict[str, Any]:
    """A line as a response; {} where a library printed it before stdout was redirected."""
    try:
        response = json.loads(line)
    except ValueError:
        return {}
    return response if isinstance(response, dict) and "id" in response else {}
