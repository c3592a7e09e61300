"""Whatever happens to the process that builds, its parent goes on, and the earlier engine stays.

Ends that TensorRT does not come to by itself are those of a stand-in for its module, in a real child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.building import build_engine
from fcn_deploy.child import environment
from fcn_deploy.errors import EngineError, MissingDependency, UsageError
from fcn_deploy.export.tensorrt import process, worker
from fcn_deploy.export.tensorrt.pipe import ChildTraceback
from fcn_deploy.runtimes.tensorrt.sidecar import check_engine

pytest.importorskip("tensorrt_rtx")

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other ways to end a process")

SMALL = "1x32x48:1x64x96:2x128x160"
HANG = "time.sleep(600)"
STAND_IN = """
import os, signal, sys, time, types

__version__ = "0.0"
severity = types.SimpleNamespace

class ComputeCapability:
    __members__ = {{}}

class ILogger:
    def __init__(self): pass

class Builder:
    def __init__(self, logger):
        with open({pid!r}, "w") as stream:
            stream.write(str(os.getpid()))
        {body}
        raise TypeError("no builder")
"""


@pytest.fixture
def source(small: Callable[..., Path]) -> Path:
    """A deploy graph of a few operators."""
    return small()


@pytest.fixture
def stand_in(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """``stand_in(body)``: a TensorRT-RTX whose builder, which never starts, does ``body`` first.

    What is returned is the file where it leaves its process id.
    """
    folder = tmp_path_factory.mktemp("stand-in")

    def put(body: str, code: str = STAND_IN) -> Path:
        pid = folder / "pid"
        (folder / "tensorrt_rtx.py").write_text(code.format(body=body, pid=str(pid)), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        return pid

    return put


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """``x.engine`` with a sidecar, as an earlier build left them."""
    (tmp_path / "x.engine").write_bytes(b"old engine")
    (tmp_path / "x.engine.json").write_bytes(b"old sidecar")
    return tmp_path / "x.engine"


def is_untouched(engine: Path) -> bool:
    """Whether the earlier pair, and nothing else, is there."""
    return {path.name: path.read_bytes() for path in engine.parent.iterdir()} == {
        "x.engine": b"old engine",
        "x.engine.json": b"old sidecar",
    }


def appears(path: Path) -> str:
    """What is in a file, once it is written."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.02)
    pytest.fail(f"{path} has not appeared")


@posix
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"x\.engine crashed with SIGSEGV; this is a fault inside"),
        ("os.write(2, b'bad kernel'); os.abort()", r"crashed with SIGABRT \(its last line: bad kernel\)"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "killed with SIGKILL, as the system does where memory runs out",
        ),
        ("os._exit(137)", "killed with SIGKILL, as the system does where memory runs out"),
        ("os._exit(3)", "ended without an engine, exit code 3"),
    ],
)
def test_a_child_that_ends_early_is_one_sentence(
    source: Path, old: Path, stand_in: Callable[..., Path], body: str, told: str
) -> None:
    stand_in(body)
    with pytest.raises(EngineError, match=told) as caught:
        build_engine(source, old, flavor="rtx")
    assert "\n" not in str(caught.value)
    assert is_untouched(old)


@pytest.mark.parametrize(
    "body", [HANG, "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], ids=["hangs", "stays"]
)
def test_a_build_that_takes_too_long_is_ended(
    source: Path,
    old: Path,
    stand_in: Callable[..., Path],
    gone: Callable[[int], bool],
    monkeypatch: pytest.MonkeyPatch,
    body: str,
) -> None:
    pid = stand_in(body)
    clock = [0.0]
    monkeypatch.setattr(process, "_END_TIMEOUT", 0.5)
    monkeypatch.setattr(process, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))

    def pass_time(step: str) -> None:
        appears(pid)  # it hangs now
        clock[0] = 61.0

    with pytest.raises(EngineError, match=r"x\.engine was not built within 60 s and the build was ended"):
        build_engine(source, old, flavor="rtx", timeout=60, progress=pass_time)
    assert gone(int(pid.read_text()))
    assert is_untouched(old)


@posix
def test_a_time_out_ends_a_child_that_says_nothing(
    source: Path, old: Path, stand_in: Callable[..., Path]
) -> None:
    stand_in(HANG)
    with pytest.raises(EngineError, match=r"was not built within 0\.5 s"):
        build_engine(source, old, flavor="rtx", timeout=0.5)
    assert is_untouched(old)


def test_what_the_vendor_prints_does_not_disturb(
    source: Path, old: Path, stand_in: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    stand_in("""print('{"built": 1}', flush=True); os.write(1, b'{"step": 2}'); os.write(2, b"[E]")""")
    steps: list[str] = []
    with pytest.raises(
        EngineError, match=r"TensorRT-RTX 0\.0 could not start its builder: it gave no reason"
    ):
        build_engine(source, old, flavor="rtx", progress=steps.append)
    assert steps == ["parsing"]
    assert capfd.readouterr() == ("", "")
    assert is_untouched(old)


def test_what_is_printed_before_the_child_begins_does_not_disturb(
    source: Path, old: Path, stand_in: Callable[..., Path]
) -> None:
    """Such as by a sitecustomize.py, which Python imports at its start."""
    folder = stand_in("").parent
    text = """import sys; print("hello"); print('["x"]'); print("a line without an end", end="")"""
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    steps: list[str] = []
    with pytest.raises(EngineError, match="could not start its builder"):
        build_engine(source, old, flavor="rtx", progress=steps.append)
    assert steps == ["parsing"]
    assert is_untouched(old)


def test_the_log_reaches_this_process_at_the_level_that_is_asked_for(
    source: Path, old: Path, stand_in: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    body = "; ".join(
        f"logger.log(severity(name={name!r}), '{name} told')" for name in ("INFO", "WARNING", "ERROR")
    )
    stand_in(body)
    for level, expected in (("INFO", ["INFO", "WARNING", "ERROR"]), ("ERROR", ["ERROR"])):
        caplog.clear()
        with (
            caplog.at_level(level, "fcn_deploy.tensorrt"),
            pytest.raises(EngineError, match="could not start its builder: ERROR told"),
        ):
            build_engine(source, old, flavor="rtx")
        assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
            ("fcn_deploy.tensorrt", name, f"{name} told") for name in expected
        ]


def test_a_root_logger_without_a_level_gets_the_whole_log(
    source: Path, old: Path, stand_in: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    stand_in("logger.log(severity(name='INFO'), 'told'); logger.log(severity(name='VERBOSE'), 'more')")
    with caplog.at_level(0), pytest.raises(EngineError, match="could not start its builder"):
        build_engine(source, old, flavor="rtx")
    assert [r.message for r in caplog.records if r.name == "fcn_deploy.tensorrt"] == ["told", "more"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise RuntimeError('odd')", "the build failed with an unexpected RuntimeError: odd"),
        ("raise MemoryError", "the build ran out of memory; lower the profile's maximum"),
    ],
)
def test_an_unexpected_error_is_a_sentence_with_its_place_as_the_cause(
    source: Path, old: Path, stand_in: Callable[..., Path], body: str, told: str
) -> None:
    stand_in(body)
    with pytest.raises(EngineError, match=told) as caught:
        build_engine(source, old, flavor="rtx")
    assert isinstance(caught.value.__cause__, ChildTraceback)
    assert "tensorrt_rtx.py" in str(caught.value.__cause__)
    assert is_untouched(old)


def test_a_tensorrt_that_cannot_be_imported_is_named(
    source: Path, old: Path, stand_in: Callable[..., Path]
) -> None:
    stand_in("", code="raise ImportError('libnvinfer.so.10 is not found')")
    with pytest.raises(MissingDependency, match=r"installed and fails to import \(libnvinfer\.so\.10 is"):
        build_engine(source, old, flavor="rtx")
    assert is_untouched(old)


def test_a_process_that_cannot_be_started_is_told(
    source: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for executable, told in (("no-such-python", "no-such-python"), (None, "names no Python")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(
            EngineError, match=rf"the process that builds .*x\.engine cannot be started: .*{told}"
        ):
            build_engine(source, old, flavor="rtx")
        assert is_untouched(old)


def test_an_engine_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write the engine into .*: Is a directory"):
        worker._write(b"engine", tmp_path)


def test_a_build_in_a_thread(source: Path, tmp_path: Path) -> None:
    """Its progress is told in that thread too."""
    told: set[threading.Thread] = set()
    built: list[Path] = []

    def build() -> None:
        result = build_engine(
            source,
            tmp_path / "x.engine",
            profiles=[SMALL],
            flavor="rtx",
            progress=lambda _: told.add(threading.current_thread()),
        )
        built.append(result.path)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert built == [tmp_path / "x.engine"]
    assert told == {thread}
    check_engine(built[0])


BUILD = f"""
import signal, sys
from fcn_deploy import build_engine
print("begins", flush=True)

def progress(step):
    if wait and step.startswith("building: "):
        print(step, flush=True)
        signal.pause()

wait = sys.argv[3] == "wait"
try:
    result = build_engine(sys.argv[1], sys.argv[2], profiles=[{SMALL!r}], flavor="rtx", progress=progress)
    print(result)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def script(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """``script(engine, word)``: a program without a main guard builds, in a process group of its own."""
    path = tmp_path_factory.mktemp("script") / "build.py"
    path.write_text(BUILD, encoding="utf-8")

    def start(engine: Path, word: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(path), str(source), str(engine), word],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )

    return start


def test_a_script_without_a_main_guard_runs_once(
    script: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out, errors = script(tmp_path / "x.engine").communicate(timeout=120)
    begins, kind, file, *_ = out.splitlines()
    assert (begins, kind, errors) == ("begins", "EngineResult", "")
    assert file.split()[:2] == ["file", str(tmp_path / "x.engine")]
    check_engine(tmp_path / "x.engine")


@posix
def test_ctrl_c_in_a_terminal_ends_the_build_of_the_real_tensorrt(
    script: Callable[..., subprocess.Popen[str]], old: Path
) -> None:
    """A terminal sends it to the whole group. It arrives during the build, in a progress function."""
    user = script(old, "wait")
    assert user.stdout is not None
    for line in user.stdout:
        if line.startswith("building: "):
            break
    os.killpg(user.pid, signal.SIGINT)
    out, errors = user.communicate(timeout=60)
    assert (out, errors, user.returncode) == ("interrupted\n", "", 0)
    assert is_untouched(old)


@posix
def test_ctrl_c_while_nothing_is_told_ends_the_child(
    script: Callable[..., subprocess.Popen[str]],
    old: Path,
    stand_in: Callable[..., Path],
    gone: Callable[[int], bool],
) -> None:
    pid = stand_in(HANG)
    user = script(old)
    child = int(appears(pid))
    os.killpg(user.pid, signal.SIGINT)
    out, errors = user.communicate(timeout=60)
    assert (out, errors, user.returncode) == ("begins\ninterrupted\n", "", 0)
    assert gone(child)
    assert is_untouched(old)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_on_the_command_line_is_in_the_exit_code(
    source: Path,
    old: Path,
    stand_in: Callable[..., Path],
    gone: Callable[[int], bool],
    number: signal.Signals,
) -> None:
    pid = stand_in(HANG)
    words = ["build-engine", str(source), "--flavor", "rtx", "-o", str(old)]
    user = subprocess.Popen(
        [sys.executable, "-c", "from fcn_deploy.cli import main; main()", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    child = int(appears(pid))
    os.killpg(user.pid, number)
    _, errors = user.communicate(timeout=60)
    assert (errors, user.returncode) == ("Error: interrupted\n", 128 + number)
    assert gone(child)
    assert is_untouched(old)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_nothing_is_left_when_the_parent_is_killed(
    script: Callable[..., subprocess.Popen[str]],
    old: Path,
    stand_in: Callable[..., Path],
    gone: Callable[[int], bool],
) -> None:
    pid = stand_in(HANG)
    user = script(old)
    child = int(appears(pid))
    user.kill()
    user.communicate(timeout=60)
    assert gone(child)
