"""Options that several commands share, and their choices."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fcn_deploy.errors import UsageError

_ARTEFACT_HELP = ".onnx, .pt2, .safetensors, .engine, or a file or URL that an installed backend reads."

Artefact = Annotated[str, typer.Argument(metavar="ARTEFACT", help=_ARTEFACT_HELP, show_default=False)]
Artefacts = Annotated[list[str], typer.Argument(metavar="ARTEFACT", help=_ARTEFACT_HELP, show_default=False)]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="pytorch or onnxruntime or tensorrt or openvino, or one that another package installs.",
        show_default="the first that reads the artefact and can run",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.", show_default="the best available"),
]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="ONNX Runtime's provider: cpu, cuda or tensorrt.", show_default="by the device"
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="CPU threads.", show_default="all usable cores"),
]
CudaBinding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How an engine reaches the GPU: cuda-python or pycuda.",
        show_default="what is installed",
    ),
]
ExpectSha256 = Annotated[
    str | None,
    typer.Option(metavar="HEX", help="Refuse an artefact that has another SHA-256.", show_default=False),
]
Trust = Annotated[
    bool | None,
    typer.Option(
        "--trust", help="Open a .pt2 program without its manifest; it can run any code.", show_default=False
    ),
]
# None and not False, as for the other options of a backend: only given options are passed to a backend.
AllowFallback = Annotated[
    bool | None,
    typer.Option(
        "--allow-fallback", help="Use the CPU where the device asked for cannot run.", show_default=False
    ),
]
BackendOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Any option of the backend, by its name in Python; repeat it for several.",
        show_default=False,
    ),
]
IgnoreLabel = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=255,
        metavar="N",
        help="Label of pixels that are not scored.",
        show_default="11 for camvid, else 255",
    ),
]
MaxSize = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="The largest frame that is accepted.", show_default="4096x4096"),
]
CheckAgainst = Annotated[
    Path | None,
    typer.Option(
        metavar="ANSWERS.npz",
        help="Answers of the original network; where the graph differs, nothing is written.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write JSON to a file; - is stdout.", show_default=False),
]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Suffixes of pictures that Pillow writes."""


class VariantChoice(str, Enum):
    """Names of ``fcn_deploy.model.fcn8s.VARIANTS``, which needs torch."""

    FCN8S = "fcn8s"
    ATONCE = "fcn8s-atonce"
    SAME = "fcn8s-same"
    LITE = "fcn8s-lite"
    LECTURE = "fcn8s-lecture"
    LECTURE_NORELU = "fcn8s-lecture-norelu"


class Precision(str, Enum):
    """What export can write."""

    FP32 = "fp32"
    FP16 = "fp16"


class ColorOrder(str, Enum):
    """The order of a frame's channels."""

    BGR = "bgr"
    RGB = "rgb"


def parse_size(text: str, option: str) -> tuple[int, int]:
    """``360x480`` -> (360, 480), height first.

    Raises:
        UsageError: anything else, or a zero.
    """
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.strip().lower())
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if 0 in size:
        raise UsageError(f"{option} {text}: expected height x width of at least 1, such as 360x480")
    return size


def parse_factor(text: str, option: str) -> float:
    """``1/255`` or ``0.0039`` -> a number.

    Raises:
        UsageError: anything else, or not above 0.
    """
    try:
        above, _, below = text.partition("/")
        factor = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise UsageError(f"{option} {text}: expected a number above 0 or a fraction, such as 1/255")
    return factor


def parse_channels(text: str, option: str) -> tuple[float, float, float]:
    """``104.0,116.7,122.7`` -> three numbers, one a channel, in the order given.

    Raises:
        UsageError: not three numbers.
    """
    try:
        b, g, r = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text}: expected three numbers, one a channel, such as 104.007,116.669,122.679"
        ) from None
    return b, g, r


def check_output(option: str, path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """As :func:`fcn_deploy.files.check_output`, which see."""
    from fcn_deploy.files import check_output as check

    check(path, suffixes, option)


def is_stdout(path: Path | None) -> bool:
    """Whether JSON goes to stdout: ``-``."""
    return path is not None and str(path) == "-"


def check_json(path: Path | None) -> None:
    """As :func:`check_output`, for a file or stdout."""
    if path is not None and not is_stdout(path):
        check_output("--json", path)
