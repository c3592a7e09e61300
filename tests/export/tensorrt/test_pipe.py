"""Messages of the process that builds, as its parent reads them."""

from __future__ import annotations

import io

import pytest

from fcn_deploy.errors import EngineError, FcnDeployError, InferenceError
from fcn_deploy.export.tensorrt.pipe import Sender, receive
from fcn_deploy.runtimes.cuda.driver import DeviceLost


class Told:
    """A reporter that keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def timings(self, data: bytes) -> None:
        raise AssertionError(data)


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"\n",
        b"\xff\n",
        b"{broken\n",
        b"[1]\n",
        b"3\n",
        b"{}\n",
        b'{"odd": "x"}\n',
        b'{"step": "x", "warning": "y"}\n',
    ],
)
def test_a_line_that_is_no_message_is_ignored(line: bytes) -> None:
    told = Told()
    assert receive(line, told) is None
    assert told.steps == []


class Unknown(FcnDeployError):
    """Not one of fcn_deploy.errors."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError("no"), EngineError),
        (DeviceLost("no"), InferenceError),
        (Unknown("no"), FcnDeployError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_an_error_arrives_as_the_nearest_public_class(error: FcnDeployError, kind: type) -> None:
    pipe = io.BytesIO()
    Sender(pipe).error(error)
    with pytest.raises(FcnDeployError, match=r"^no$") as caught:
        receive(pipe.getvalue(), Told())
    assert type(caught.value) is kind


@pytest.mark.parametrize("name", ["NoSuchError", "annotations"])
def test_an_error_of_an_unknown_class_is_an_engine_error(name: str) -> None:
    line = b'{"error": {"class": "%s", "text": "no", "traceback": ""}}' % name.encode()
    with pytest.raises(EngineError, match=r"^no$"):
        receive(line, Told())
