"""What holds for every command: help, version, exit codes, and errors in one sentence."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import fcn_deploy
from fcn_deploy.cli import console
from fcn_deploy.cli.main import app
from fcn_deploy.errors import ExportError, UsageError

COMMANDS = ("export", "run", "eval", "bench", "inspect", "doctor", "clip")
START = [sys.executable, "-c", "from fcn_deploy.cli import main; main()"]
ROOT = Path(fcn_deploy.__file__).parents[1]


def start(*words: object, **options: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [*START, *map(str, words)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **options},
    )


def test_help_lists_the_commands_in_the_order_of_the_road(cli) -> None:
    text = cli("--help").stdout
    places = [text.index(f"  {command} ") for command in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert f"  fcn-deploy {command}" in result.stdout


def test_version(cli) -> None:
    assert cli("--version").stdout == f"fcn-deploy {fcn_deploy.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [(), ("frobnicate",), ("--frobnicate",), ("inspect",), ("inspect", "a", "b"), ("run", "m.onnx")],
    ids=" ".join,
)
def test_a_call_that_cannot_be_parsed_exits_with_2(cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert "Usage: fcn-deploy" in result.output


def test_help_imports_little() -> None:
    """Nothing but typer, errors and descriptions: rich, numpy and the rest wait for their use."""
    code = (
        "import json, sys\nfrom fcn_deploy.cli import main\nsys.argv = ['fcn-deploy', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not loaded & {"rich.console", "numpy", "safetensors", "PIL", "torch", "onnx", "onnxruntime", "cv2"}


def failing(error: BaseException) -> typer.Typer:
    """An app whose one command raises."""
    lone = typer.Typer(rich_markup_mode=None)

    def command() -> None:
        raise error

    lone.command()(console.guarded(command))
    return lone


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ExportError("the graph is wrong"), 1, "Error: the graph is wrong"),
        (UsageError("give a file"), 2, "Error: give a file"),
        (MemoryError(), 1, "Error: out of memory; use a smaller frame, a smaller batch or a smaller model"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.png"),
            1,
            "Error: no space left on device (out.png); free some space or write elsewhere",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "Error: a: permission denied"),
        (
            KeyError("labels\nmore"),
            1,
            r"Error: unexpected KeyError: 'labels\nmore'; run again with --debug to see where it comes from",
        ),
        (
            ZeroDivisionError(),
            1,
            "Error: unexpected ZeroDivisionError; run again with --debug to see where it ",
        ),
        (KeyboardInterrupt(), 130, "Error: interrupted"),
        (console.Interrupted(signal.SIGTERM), 143, "Error: interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_sentence(error: BaseException, code: int, sentence: str) -> None:
    result = CliRunner().invoke(failing(error))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(sentence)
    assert len(result.stderr.splitlines()) == 1


def test_names_out_of_files_cannot_drive_the_terminal() -> None:
    result = CliRunner().invoke(failing(UsageError("a\x1b[2Jb")))
    assert result.stderr == "Error: a?[2Jb\n"


@pytest.mark.parametrize("words", [("--debug", "inspect", "none.onnx"), ("inspect", "none.onnx", "--debug")])
def test_debug_shows_where_an_error_comes_from(cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: none.onnx does not exist")


def test_debug_by_environment() -> None:
    result = CliRunner().invoke(app, ["inspect", "none.onnx"], env={"FCN_DEPLOY_DEBUG": "1"})
    assert "Traceback" in result.stderr
    again = CliRunner().invoke(app, ["inspect", "none.onnx"])
    assert "Traceback" not in again.stderr


def test_a_reader_that_leaves_is_no_error(artefact: Path) -> None:
    with start("inspect", artefact, "--json") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_said_once(artefact: Path) -> None:
    with open("/dev/full", "w") as full:
        process = start("inspect", artefact, "--json", stdout=full)
        told = process.communicate(timeout=60)[1]
    assert told == "Error: no space left on device; free some space or write elsewhere\n"
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_what_is_complete(
    number: signal.Signals, artefact: Path, tmp_path: Path
) -> None:
    """Frames without end, and a signal in the middle: PNGs and video can be read, nothing half-written."""
    cv2 = pytest.importorskip("cv2")
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(3000):
        (folder / f"{index:04d}.png").symlink_to(tmp_path / "one.png")
    Image.new("RGB", (320, 240), (200, 0, 0)).save(tmp_path / "one.png")
    process = start(
        *("run", artefact, folder, "--json", "--masks", tmp_path / "labels"),
        *("--overlay", tmp_path / "out.mp4"),
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and not (tmp_path / "labels" / "0002.png").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    told, complaint = process.communicate(timeout=60)
    assert process.returncode == 128 + number, complaint
    report = json.loads(told)
    assert report["interrupted"]
    assert 2 <= report["frames"] < 3000
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) >= report["frames"]
    capture.release()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_and_is_in_the_exit_code(number: signal.Signals) -> None:
    """The first one asks a run that never ends to stop."""
    code = f"""
import os, signal, time
from fcn_deploy.cli import console, live
def run():
    with live.stop_on_signals(lambda: None):
        for _ in range(2):
            os.kill(os.getpid(), {int(number)})
        time.sleep(60)
import typer
console.prepare_process()
app = typer.Typer()
app.command()(console.guarded(run))
app()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stderr, done.returncode) == ("Error: interrupted\n", 128 + number)


def test_warnings_of_libraries_stay_quiet_and_ours_are_sentences() -> None:
    code = (
        "import types, warnings\nfrom fcn_deploy.cli.console import prepare_process\nprepare_process()\n"
        "warnings.warn('theirs')\n"
        "exec('import warnings; warnings.warn(\"ours\")', {'__name__': 'fcn_deploy.cli.run'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "Warning: ours\n"
