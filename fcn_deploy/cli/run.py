"""``fcn-deploy run``: labels frames of files and cameras; the results go to the outputs asked for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.cli.live import Stopped, status_line, stop_on_signals
from fcn_deploy.cli.outputs import Outputs, output_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fcn_deploy.camera import Delivery, Pipeline, Sink, Source, Statistics
    from fcn_deploy.runtimes.segmenter import Segmenter
    from fcn_deploy.spec import ModelSpec


class OnError(str, Enum):
    """Whether a failed frame or a lost camera ends the run."""

    STOP = "stop"
    CONTINUE = "continue"


class Transport(str, Enum):
    """How RTSP carries pictures."""

    TCP = "tcp"
    UDP = "udp"


@dataclass
class _ClassShares:
    """A sink that counts the pixels of each class."""

    pixels: NDArray[np.int64] | None = None

    def __call__(self, delivery: Delivery) -> None:
        import numpy as np

        counts = np.bincount(delivery.labels.ravel(), minlength=256)
        self.pixels = counts if self.pixels is None else self.pixels + counts

    def by_class(self, spec: ModelSpec) -> dict[str, float]:
        """Share of all pixels by class name, largest first."""
        if self.pixels is None:
            return {}
        total = float(self.pixels.sum())
        named = zip(spec.classes, self.pixels.tolist(), strict=False)
        return dict(sorted(((n, p / total) for n, p in named), key=lambda item: -item[1]))


@dataclass(frozen=True)
class _Done:
    """The end of a run."""

    statistics: Statistics
    shares: dict[str, float]
    stopped: Stopped


@output_options
def run(
    artefact: options.Artefact,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="An image, a folder, a video, a camera (0, /dev/video0, csi://0), a URL (rtsp://, http://) "
            "or a GStreamer pipeline; several are several cameras.",
            show_default=False,
        ),
    ],
    outputs: Outputs,
    max_frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N frames.")] = None,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="A", help="Weight of the labels' colours, 0 to 1.")
    ] = 0.5,
    smooth: Annotated[
        int | None,
        typer.Option(min=2, max=255, metavar="N", help="Change a pixel's label after N frames in a row."),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(help="Whether a failed frame, or the loss of one of several cameras, ends the run."),
    ] = OnError.STOP,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Ask a camera for this size.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.01, metavar="F", help="Ask a camera for this rate; rate of images with --real-time."
        ),
    ] = None,
    pixel_format: Annotated[
        str | None, typer.Option(metavar="FOURCC", help="Ask a V4L2 camera for it, such as MJPG.")
    ] = None,
    rotate: Annotated[int, typer.Option(metavar="DEGREES", help="Clockwise: 0, 90, 180 or 270.")] = 0,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Play files as they were recorded, and drop what is late.")
    ] = False,
    transport: Annotated[Transport, typer.Option(help="How RTSP carries pictures.")] = Transport.TCP,
    give_up: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="End the run when a stream has been lost for this long.",
            show_default="never",
        ),
    ] = None,
    read_timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="A camera that gives no frame for this long is lost."),
    ] = 5.0,
    log_every: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Time between statistics lines on stderr."),
    ] = None,
    backend: options.Backend = None,
    device: options.Device = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    allow_fallback: options.AllowFallback = None,
    cuda_binding: options.CudaBinding = None,
    expect_sha256: options.ExpectSha256 = None,
    trust: options.Trust = None,
    option: options.BackendOption = None,
    as_json: options.Json = False,
) -> None:
    """Label the frames of images, videos and cameras.

    No frame of a file is dropped. While the model is busy, a live camera's frames are replaced by newer ones;
    a camera that is lost is opened again until it is back. Ctrl-C and SIGTERM finish what is being written.
    """
    outputs.check(sources, as_json)
    from fcn_deploy.camera import Pipeline, SourceOptions, open_source
    from fcn_deploy.cli.backend_options import options_for
    from fcn_deploy.runtimes.registry import load

    asked = SourceOptions(
        size=options.parse_size(size, "--size") if size else None,
        fps=fps,
        pixel_format=pixel_format,
        rotate=rotate,
        pace="real-time" if real_time else "fast",
        transport=transport.value,
        give_up=give_up,
        read_timeout=read_timeout,
    )
    with (
        ExitStack() as opened,
        load(
            artefact,
            backend=backend,
            **options_for(
                artefact,
                backend,
                option or (),
                device=device,
                provider=provider,
                threads=threads,
                allow_fallback=allow_fallback,
                cuda_binding=cuda_binding,
                expect_sha256=expect_sha256,
                trust=trust,
            ),
        ) as segmenter,
    ):
        outputs.check_artefact(artefact, segmenter.spec)
        cameras = [open_source(source, segmenter.spec.color_order, asked) for source in sources]
        _warn_of_ignored(cameras, size=size, fps=None if real_time else fps, pixel_format=pixel_format)
        sinks = outputs.open(cameras, alpha, opened)
        shares = _ClassShares()
        pipeline = Pipeline(
            cameras,
            segmenter,
            [shares, *sinks],
            on_error=on_error.value,
            smoothing=smooth,
            max_frames=max_frames,
        )
        _start_previews(sinks, pipeline)
        stopped = _run_until_stopped(pipeline, cameras, max_frames, log_every)
        done = _Done(pipeline.statistics(), shares.by_class(segmenter.spec), stopped)
        _report(artefact, cameras, segmenter, done, outputs, as_json)
    if stopped.signal is not None:
        raise typer.Exit(stopped.exit_code)


def _start_previews(sinks: list[Sink], pipeline: Pipeline) -> None:
    """Give the statistics to the preview, and say where it is."""
    from fcn_deploy.camera import Preview

    for sink in sinks:
        if isinstance(sink, Preview):
            sink.statistics = pipeline.statistics
            console.Printer(to_stderr=True).say(f"Preview on {sink.url}")


def _warn_of_ignored(cameras: list[Source], **asked: object) -> None:
    """Warn of options that were given for a file and have an effect on cameras only."""
    from fcn_deploy.camera.sources.recorded import FileSource

    ignored = [f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None]
    for camera in cameras:
        if ignored and isinstance(camera, FileSource):
            console.warn(f"{camera.name} is a file: {', '.join(ignored)} is for cameras and is ignored")


def _expected(cameras: list[Source], max_frames: int | None) -> int | None:
    """How many frames will be delivered; None where that is unknown."""
    lengths = [None if camera.live else camera.length for camera in cameras]
    if any(length is None for length in lengths):
        return max_frames
    total = sum(length for length in lengths if length is not None)
    return min(total, max_frames or total)


def _run_until_stopped(
    pipeline: Pipeline, cameras: list[Source], max_frames: int | None, log_every: float | None
) -> Stopped:
    expected = _expected(cameras, max_frames)
    of = f" of {expected}" if expected else ""

    def line() -> str:
        now = pipeline.statistics()
        if any(camera.live for camera in cameras):
            return f"{now}"
        return f"{now.delivered}{of} frames, {now.frames_per_second:.1f} a second"

    with stop_on_signals(pipeline.stop) as stopped, status_line(line, log_every):
        try:
            pipeline.run()
        except Exception:
            if (now := pipeline.statistics()).delivered:
                console.Printer(to_stderr=True).say(f"Before the error: {now}")
            raise
    return stopped


def _report(
    artefact: str, cameras: list[Source], segmenter: Segmenter, done: _Done, outputs: Outputs, as_json: bool
) -> None:
    if as_json:
        console.write_json(_facts(artefact, cameras, segmenter, done, outputs))
        return
    now = done.statistics
    out = console.Printer(to_stderr=outputs.on_stdout)
    if done.stopped.signal is not None:
        out.say("Interrupted; the outputs are complete up to here.")
    infer = now.stages.get("infer")
    out.say(
        f"{now.delivered} frame{'s' * (now.delivered != 1)} in {now.seconds:.1f} s "
        f"({now.delivered / now.seconds:.1f} a second"
        + (f", {1e3 * infer.p50:.1f} ms in the model" if infer else "")
        + f") with {segmenter.backend} on {segmenter.device}, {segmenter.precision}"
    )
    if any(camera.live for camera in cameras) or now.failed:
        out.say(f"{now}")
    if segmenter.spec.note:
        out.say(f"Note: {segmenter.spec.note}")
    out.pairs(((name, f"{share:6.1%}") for name, share in done.shares.items() if share > 0), indent=2)
    for path in outputs.paths():
        out.say(f"Wrote {path}")
    if not outputs:
        out.say("Nothing was written; add --overlay PATH, --masks FOLDER or --serve PORT.")


def _facts(
    artefact: str, cameras: list[Source], segmenter: Segmenter, done: _Done, outputs: Outputs
) -> dict[str, Any]:
    from fcn_deploy.runtimes.location import shown

    now = done.statistics
    return {
        "artefact": shown(artefact),
        "sources": [{"name": camera.name, **camera.state.properties} for camera in cameras],
        "backend": segmenter.backend,
        "device": segmenter.device,
        "precision": segmenter.precision,
        "frames": now.delivered,
        "seconds": now.seconds,
        "frames_per_second": now.delivered / now.seconds,
        "class_shares": done.shares,
        "written": outputs.paths(),
        "interrupted": done.stopped.signal is not None,
        "statistics": now.to_json(),
        "note": segmenter.spec.note,
    }
