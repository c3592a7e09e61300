"""What both of PyTorch's exporters are told: an example, the axes that vary, and not to talk."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch

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
    """Do not show the exporter's log and warnings; its errors are still raised as exceptions."""
    names = ("torch.onnx", "torch.export", "onnxscript", "torch._guards")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
