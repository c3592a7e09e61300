"""The outputs of ``run``: one table of the options that ask for a sink, and the sinks they open.

A sink on the command line is a module in :mod:`fcn_deploy.camera.sinks` and a row in :data:`OUTPUTS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    from fcn_deploy.camera.sinks.base import Sink
    from fcn_deploy.camera.sources.base import Source
    from fcn_deploy.draw import Picture
    from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class SinkOptions:
    """What a sink needs to know about the run, besides the value of its own option."""

    cameras: int
    single_image: bool
    """Whether the only source is one image."""
    fps: float | None
    """Frames per second of the sources; None where it has to be measured."""
    alpha: float
    """Weight of the labels' colours, 0 to 1."""


@dataclass(frozen=True)
class OutputOption:
    """One option of ``run`` that asks for a sink."""

    name: str
    """The option without its dashes."""
    kind: type[Path] | type[str] | type[bool]
    """The type of its value; a Path is a file or folder to write, or ``-`` for stdout."""
    metavar: str | None
    help: str
    open: Callable[[Any, SinkOptions], Sink]
    """Opens the sink, given the option's value."""
    is_folder: bool = False
    """Whether it writes a folder of PNGs."""
    needs: str | None = None
    """The output of the artefact that it needs."""

    @property
    def option(self) -> str:
        return f"--{self.name}"

    def parameter(self) -> inspect.Parameter:
        """The option as a parameter of a command."""
        kind: Any = bool if self.kind is bool else self.kind | None
        info = typer.Option(self.option, metavar=self.metavar, help=self.help)
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if self.kind is bool else None,
            annotation=Annotated[kind, info],
        )


def _overlay(path: Path, options: SinkOptions) -> Sink:
    """A video, a picture, or a folder of pictures: the suffix decides."""
    from fcn_deploy.camera import sinks
    from fcn_deploy.camera.sinks.video_file import VIDEO_SUFFIXES
    from fcn_deploy.data.images import IMAGE_SUFFIXES

    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return sinks.OverlayVideo(path, options.fps, alpha=options.alpha, cameras=options.cameras)
    if suffix and suffix not in IMAGE_SUFFIXES:
        raise UsageError(
            f"--overlay {path}: expected a video ({', '.join(VIDEO_SUFFIXES)}), a picture "
            f"({', '.join(IMAGE_SUFFIXES)}) or a folder without a suffix"
        )
    if suffix and not options.single_image:
        raise UsageError(
            f"--overlay {path} is one picture and the source has many frames; name a video (.mp4) or a folder"
        )
    return sinks.OverlayPictures(path, alpha=options.alpha, cameras=options.cameras)


def _masks(folder: Path, options: SinkOptions) -> Sink:
    from fcn_deploy.camera import sinks

    return sinks.LabelPngs(folder, cameras=options.cameras)


def _confidence(folder: Path, options: SinkOptions) -> Sink:
    from fcn_deploy.camera import sinks

    return sinks.ConfidencePngs(folder, cameras=options.cameras)


def _raw(path: Path, options: SinkOptions) -> Sink:
    from fcn_deploy.camera import sinks

    return sinks.RawLabels(path, cameras=options.cameras)


def _serve(address: str, options: SinkOptions) -> Sink:
    from fcn_deploy.camera import sinks

    return sinks.Preview(*_host_and_port(address), alpha=options.alpha)


def _show(_: bool, options: SinkOptions) -> Sink:
    from fcn_deploy.camera import sinks

    return sinks.Window(alpha=options.alpha, cameras=options.cameras, hold=options.single_image)


OUTPUTS = (
    OutputOption(
        "overlay",
        Path,
        "PATH",
        "Labels drawn over frames: a video (.mp4, .mkv, ...), a picture or a folder.",
        _overlay,
    ),
    OutputOption("masks", Path, "FOLDER", "Label maps as PNG.", _masks, is_folder=True),
    OutputOption(
        "confidence",
        Path,
        "FOLDER",
        "Heat maps of the confidence, where it was exported.",
        _confidence,
        is_folder=True,
        needs="confidence",
    ),
    OutputOption("raw", Path, "PATH", "Label maps as a stream of binary PGM; - is stdout.", _raw),
    OutputOption(
        "serve", str, "[HOST:]PORT", "Preview in a browser; without HOST on this machine only.", _serve
    ),
    OutputOption("show", bool, None, "Open a window; q or Esc ends.", _show),
)
"""The options of ``run`` that ask for a sink; deliveries go to the sinks in this order."""


class Outputs:
    """The outputs that a call asks for.

    Args:
        values: the value of each option, by its name; None and False ask for nothing.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._asked = [(output, values[output.name]) for output in OUTPUTS if values.get(output.name)]

    def __bool__(self) -> bool:
        return bool(self._asked)

    @property
    def on_stdout(self) -> bool:
        """Whether one of them is written to stdout."""
        return any(str(value) == "-" for _, value in self._asked)

    def paths(self) -> list[Path]:
        """Files and folders that are written, without stdout."""
        return [value for output, value in self._asked if output.kind is Path and str(value) != "-"]

    def check(self, sources: list[str], as_json: bool) -> None:
        """Refuse outputs that would overwrite a source or each other.

        Raises:
            UsageError: two outputs have one path, a source would be overwritten, a folder is named like an
                image, or stdout would get two things.
        """
        from fcn_deploy.data.images import IMAGE_SUFFIXES

        for output, value in self._asked:
            if as_json and str(value) == "-":
                raise UsageError(
                    f"{output.option} - and --json both write to stdout; name a file or a pipe for "
                    f"{output.option}"
                )
            if output.is_folder and value.suffix.lower() in IMAGE_SUFFIXES:
                raise UsageError(
                    f"{output.option} {value}: expected a folder, which gets one PNG a frame; leave the "
                    "suffix out"
                )
        paths = [path.resolve() for path in self.paths()]
        for source in map(Path, sources):
            read = {source.resolve()}
            if source.suffix.lower() in IMAGE_SUFFIXES:
                read.add(source.parent.resolve())
            if read & set(paths):
                raise UsageError(
                    f"an output would overwrite frames of {source}; name another path to write to"
                )
        if len(set(paths)) < len(paths):
            raise UsageError("two outputs have the same path; give each its own")

    def check_artefact(self, artefact: str, spec: ModelSpec) -> None:
        """Refuse an output that the artefact cannot give.

        Raises:
            UsageError: it was exported without what an output needs.
        """
        for output, _ in self._asked:
            if output.needs and output.needs not in spec.outputs:
                raise UsageError(
                    f"{artefact} has no {output.needs} output (it has {', '.join(spec.outputs)}); "
                    f"export it again with --outputs labels,{output.needs}"
                )

    def open(self, sources: list[Source], alpha: float, opened: ExitStack) -> list[Sink]:
        """Open the sinks.

        Args:
            sources: where the frames come from.
            alpha: weight of the labels' colours, 0 to 1.
            opened: closes the sinks if the run never begins; closing them again does nothing.

        Raises:
            UsageError: a path cannot be written, a port cannot be used, or a suffix is wrong.
            BackendUnavailable: there is no display, or no encoder for videos.
        """
        options = SinkOptions(
            cameras=len(sources),
            single_image=len(sources) == 1 and sources[0].length == 1,
            fps=_rate_of(sources),
            alpha=alpha,
        )
        return [opened.enter_context(output.open(value, options)) for output, value in self._asked]


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :data:`OUTPUTS`, in the place of its parameter ``outputs``.

    The command itself gets an :class:`Outputs`. Typer reads options from a signature, so this writes one.
    """

    @wraps(command)
    def wrapper(**arguments: Any) -> None:
        values = {output.name: arguments.pop(output.name) for output in OUTPUTS}
        command(**arguments, outputs=Outputs(values))

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "outputs":
            parameters += [output.parameter() for output in OUTPUTS]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    vars(wrapper)["__signature__"] = inspect.Signature(parameters)
    return wrapper


@contextmanager
def video_file(path: Path, fps: float) -> Iterator[Callable[[Picture], None]]:
    """A video file that is complete when the block ends without an error, and removed otherwise.

    Yields:
        A function that appends an RGB picture, uint8 ``[H, W, 3]``.

    Raises:
        UsageError, PipelineError, BackendUnavailable: as
            :class:`~fcn_deploy.camera.sinks.video_file.VideoFile`.
    """
    from fcn_deploy.camera.sinks.video_file import VideoFile

    with VideoFile(path, fps) as video:
        try:
            yield video.write
        except BaseException:
            video.discard()
            raise


_FOLDER_FPS = 10.0
"""Frames per second of a video made of images, which have no rate of their own."""


def _rate_of(sources: list[Source]) -> float | None:
    """The rate of file sources; None for live sources, whose rate has to be measured."""
    if any(source.live for source in sources):
        return None
    return next((source.fps for source in sources if source.fps), _FOLDER_FPS)


def _host_and_port(address: str) -> tuple[str, int]:
    """``8080``, ``0.0.0.0:8080`` or ``[::1]:8080`` as host and port.

    Raises:
        UsageError: the port is not a number up to 65535.
    """
    host, _, port = address.rpartition(":")
    if not (port.isdecimal() and port.isascii() and int(port) <= 65535):
        raise UsageError(f"--serve {address}: expected a port such as 8080, or an address with one")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
