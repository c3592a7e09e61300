"""A worker that prints, dies, hangs or is orphaned never takes its owner with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.bench.process import CAN_PAUSE, WorkerProcess
from fcn_deploy.errors import InferenceError

Gone = Callable[[int], bool]

needs_stop = pytest.mark.skipif(not CAN_PAUSE, reason="this system cannot stop a process")

ECHO = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    {body}
    print(json.dumps({{"id": request["id"], "said": request.get("word")}}), flush=True)
"""


@pytest.fixture
def start(tmp_path: Path, plant: Callable[[str], None]) -> Callable[[str], WorkerProcess]:
    def begin(code: str) -> WorkerProcess:
        plant(code)
        return WorkerProcess(tmp_path, "worker", threads=1)

    return begin


def test_lines_of_libraries_do_not_disturb_the_responses(start: Callable[[str], WorkerProcess]) -> None:
    noise = 'print("hello"); print("{broken"); print("[1]"); print(\'{"id": 99}\'); print("\\xff")'
    with start(ECHO.format(body=noise)) as worker:
        assert [worker.ask("echo", timeout=30, word=w)["said"] for w in ("a", "b")] == ["a", "b"]


def test_endless_chatter_does_not_outlast_the_time_out(start: Callable[[str], WorkerProcess]) -> None:
    with (
        start('while True: print("chatter", flush=True)') as worker,
        pytest.raises(InferenceError, match="did not respond within 1 s"),
    ):
        worker.ask("echo", timeout=1)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        (
            "raise RuntimeError('no such kernel')",
            "exit code 1; the last line of its stderr: RuntimeError: no such kernel",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL.*memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    ],
)
def test_a_process_that_dies_says_how(start: Callable[[str], WorkerProcess], code: str, told: str) -> None:
    with start(code) as worker:
        for _ in range(2):  # asking again fails the same way, at once
            with pytest.raises(InferenceError, match=told):
                worker.ask("open", timeout=60)


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(
        InferenceError, match=r"its process cannot be started: sys\.executable names no Python"
    ):
        WorkerProcess(tmp_path, "worker", threads=1)


def test_a_process_that_hangs_is_ended(start: Callable[[str], WorkerProcess], gone: Gone) -> None:
    with start(ECHO.format(body="if request['do'] == 'hang': time.sleep(600)")) as worker:
        pid = worker.pid
        assert worker.ask("echo", timeout=30, word="here")["said"] == "here"
        with pytest.raises(InferenceError, match=r"did not respond within 1 s \(hang\)"):
            worker.ask("hang", timeout=1)
        assert gone(pid)
        with pytest.raises(InferenceError):
            worker.ask("echo", timeout=30)


def test_a_process_that_closes_its_stdout_is_ended(
    start: Callable[[str], WorkerProcess], monkeypatch: pytest.MonkeyPatch, gone: Gone
) -> None:
    monkeypatch.setattr("fcn_deploy.bench.process._END_TIMEOUT", 0.5)
    with start("import os, time; os.close(1); time.sleep(600)") as worker:
        with pytest.raises(InferenceError, match="closed its stdout"):
            worker.ask("open", timeout=60)
        assert gone(worker.pid)


def test_an_error_in_words_is_passed_on(start: Callable[[str], WorkerProcess]) -> None:
    code = ECHO.replace('"said": request.get("word")', '"error": "out of paper"').format(body="pass")
    with start(code) as worker, pytest.raises(InferenceError, match=r"^out of paper$"):
        worker.ask("print", timeout=30)


def test_threads_and_modules_are_passed_on(start: Callable[[str], WorkerProcess], tmp_path: Path) -> None:
    body = "import fcn_deploy; request['word'] = [os.environ['OMP_NUM_THREADS'], fcn_deploy.__file__]"
    with start(ECHO.format(body=body)) as worker:
        threads, where = worker.ask("echo", timeout=30)["said"]
    assert threads == "1"
    assert Path(where).parent.name == "fcn_deploy"


@needs_stop
def test_a_paused_process_computes_nothing_and_goes_on(start: Callable[[str], WorkerProcess]) -> None:
    code = """
    import threading, time
    def spin():
        while True: pass
    threading.Thread(target=spin, daemon=True).start()
    """
    body = "request['word'] = time.process_time()"
    with start(textwrap.dedent(code) + ECHO.format(body=body)) as worker:
        worker.ask("clock", timeout=30)
        worker.pause()
        # The stop has to arrive before the first look.
        time.sleep(0.2)
        before = cpu_ticks(worker.pid)
        time.sleep(0.6)
        assert cpu_ticks(worker.pid) == before
        worker.resume()
        assert worker.ask("clock", timeout=30)["said"] > 0


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@needs_stop
def test_a_paused_process_can_be_ended(start: Callable[[str], WorkerProcess], gone: Gone) -> None:
    worker = start(ECHO.format(body="pass"))
    worker.ask("echo", timeout=30)
    worker.pause()
    worker.close()
    worker.close()
    assert gone(worker.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its owner is gone")
def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path, gone: Gone) -> None:
    """The real worker, paused when its owner ends without a chance to clean up."""
    owner = """
    import os, pathlib, signal, sys
    from fcn_deploy.bench.process import WorkerProcess
    worker = WorkerProcess(pathlib.Path(sys.argv[1]), "worker", 1)
    try:
        worker.ask("nothing", timeout=60)  # any response: it has started
    except Exception:
        pass
    worker.pause()
    print(worker.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(owner), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert gone(int(done.stdout))
