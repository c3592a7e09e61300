"""What both exporters are told, and what is told of their failures."""

from __future__ import annotations

import itertools
import logging
import sys
import warnings

import pytest

from fcn_deploy.export.tracing import EXAMPLE, dynamic_axes, failure, quiet


class GuardOnDataDependentSymNode(RuntimeError):
    """Bears the name of torch's own."""


def chained(*errors: Exception) -> Exception:
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GuardOnDataDependentSymNode("Eq(u0, 1)"), "chooses by the numbers in a frame"),
        (
            chained(RuntimeError("step 1/3"), GuardOnDataDependentSymNode("Eq(u0, 1)\nand so on")),
            "chooses by the numbers in a frame",
        ),
        (
            ValueError("Constraints violated (height, width)! For more information\n  - Not all"),
            "chooses by the frame's height, width, or fixes it",
        ),
        (
            chained(RuntimeError("step 1/3\nlong"), TypeError(".numpy() is not supported\nmore")),
            r"\(TypeError: \.numpy\(\) is not supported\)",
        ),
    ],
)
def test_the_cause_of_a_failure_in_one_sentence(error: Exception, told: str) -> None:
    with pytest.raises(Exception, match=told) as caught:
        raise failure(error)
    assert "\n" not in str(caught.value) and "--debug" in str(caught.value)


def test_the_exporters_do_not_talk(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("torch.export")
    before = logger.level
    with quiet():
        warnings.warn("a warning", stacklevel=1)
        print("a graph", file=sys.stderr)
        assert logger.getEffectiveLevel() == logging.CRITICAL
    assert capsys.readouterr() == ("", "")
    assert logger.level == before


def test_it_talks_again_after_an_error() -> None:
    stream, level = sys.stderr, logging.getLogger("torch.onnx").level
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert sys.stderr is stream
    assert logging.getLogger("torch.onnx").level == level


def test_the_example_has_no_length_that_an_exporter_fixes() -> None:
    assert not any(length in (0, 1) or length % 32 == 0 for length in EXAMPLE)
    assert sorted(dynamic_axes()) == [0, 1, 2]
