"""What both of PyTorch's exporters are told: an example, the axes that vary, and not to talk."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from fcn_deploy.errors import ExportError, first_line

EXAMPLE = (2, 97, 131)
"""Batch, height and width to trace with: no 0, 1 or multiple of 32, or the exporter fixes them."""

_MINIMUM = 64
"""Smallest height and width for torch.export only: below it, the exporter needs constraints that it cannot
express. The graph itself has no such limit; parity is checked from 1x1 up.
"""

_MAXIMUM = 1 << 16


def dynamic_axes() -> dict[int, Any]:
    """Batch, height and width of the deploy graph's input as lengths that vary."""
    dim = torch.export.Dim
    return {
        0: dim("batch", min=1, max=_MAXIMUM),
        1: dim("height", min=_MINIMUM, max=_MAXIMUM),
        2: dim("width", min=_MINIMUM, max=_MAXIMUM),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Do not show the exporter's log, warnings and graphs; its errors are still raised as exceptions."""
    names = (
        "torch.onnx",
        "torch.export",
        "onnxscript",
        "torch._guards",
        "torch.fx.experimental.symbolic_shapes",
    )
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def failure(exc: BaseException) -> ExportError:
    """What to raise where PyTorch cannot export a network.

    Args:
        exc: what torch raised: one of many classes, some of them private, and the reason among its causes.
    """
    causes = list(_causes(exc))
    names = [type(cause).__name__ for cause in causes]
    constraints = re.search(r"Constraints violated \(([\w, ]+)\)", "\n".join(map(str, causes)))
    if "GuardOnDataDependentSymNode" in names:
        why = (
            "its code chooses by the numbers in a frame, as `if x.max() > 0` does, which no graph can follow"
        )
    elif constraints is not None:
        why = f"its code chooses by the frame's {constraints[1]}, or fixes it, as range(x.shape[0]) does"
    else:
        why = f"{names[-1]}: {first_line(causes[-1])}"
    return ExportError(
        f"torch {torch.__version__} could not export the network with dynamic sizes ({why}); run again with "
        "--debug to see where"
    )


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__
