"""The table of outputs: a row is all that a sink needs to be on the command line."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from fcn_deploy.camera import Delivery, IterableSource, Sink
from fcn_deploy.cli import outputs
from fcn_deploy.cli.outputs import OUTPUTS, OutputOption, Outputs, SinkOptions, output_options
from fcn_deploy.errors import UsageError


class Counter(Sink):
    """A sink of this test's own."""

    def __init__(self, path: Path, cameras: int) -> None:
        self.path, self.cameras, self.closed = path, cameras, False

    def __call__(self, delivery: Delivery) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_a_row_gives_a_command_the_option_and_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, options: SinkOptions) -> Sink:
        return Counter(path, options.cameras)

    row = OutputOption("count", Path, "FILE", "How many frames there were.", opened)
    monkeypatch.setattr(outputs, "OUTPUTS", (*OUTPUTS, row))
    sinks: list[Sink] = []

    @output_options
    def command(name: str, outputs: Outputs, times: Annotated[int, typer.Option(min=1)] = 1) -> None:
        with ExitStack() as stack:
            sinks.extend(outputs.open([IterableSource([]), IterableSource([])], 0.5, stack))

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["a", "--count", "frames.txt", "--times", "2"])
    assert result.exit_code == 0, result.output
    (sink,) = sinks
    assert isinstance(sink, Counter)
    assert (sink.path, sink.cameras, sink.closed) == (Path("frames.txt"), 2, True)
    assert "How many frames there were." in CliRunner().invoke(app, ["--help"]).output


def test_an_output_that_is_not_asked_for_is_not_opened() -> None:
    asked = Outputs({"overlay": None, "masks": None, "raw": Path("-"), "serve": None, "show": False})
    assert asked and asked.on_stdout and asked.paths() == []
    assert not Outputs({"overlay": None, "show": False})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        (":0", ("127.0.0.1", 0)),
    ],
)
def test_where_the_preview_is_served(text: str, address: tuple[str, int]) -> None:
    assert outputs._host_and_port(text) == address


@pytest.mark.parametrize("text", ["", "host:", "host", "8080:host", "-1"])
def test_an_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a port"):
        outputs._host_and_port(text)
