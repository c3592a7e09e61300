"""``fcn-deploy run``: frames in, pictures, label maps and a summary out."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fcn_deploy.cli.outputs import Sink
    from fcn_deploy.datasets import Frame
    from fcn_deploy.runtimes.segmenter import Segmenter
    from fcn_deploy.spec import ModelSpec

_FOLDER_FPS = 10.0
"""Frames per second of a video made of images, which have no rate of their own."""


@dataclass(frozen=True)
class _Wanted:
    """What a call asks to be written or shown."""

    overlay: Path | None
    masks: Path | None
    confidence: Path | None
    show: bool
    alpha: float

    def places(self) -> list[Path]:
        return [place for place in (self.overlay, self.masks, self.confidence) if place]


@dataclass
class _Tally:
    """What was seen so far."""

    frames: int = 0
    infer_seconds: float = 0.0
    pixels: NDArray[np.int64] | None = None
    interrupted: bool = False
    begun: float = field(default_factory=time.perf_counter)

    def shares(self, spec: ModelSpec) -> dict[str, float]:
        """Share of all pixels by class name, largest first."""
        if self.pixels is None:
            return {}
        total = float(self.pixels.sum())
        named = zip(spec.classes, self.pixels.tolist(), strict=False)
        return dict(sorted(((n, p / total) for n, p in named), key=lambda item: -item[1]))


def run(
    artefact: options.Artefact,
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="An image, a folder of images or a video.", show_default=False),
    ],
    overlay: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Labels drawn over frames: .mp4, .png or a folder."),
    ] = None,
    masks: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Label maps as PNG.")] = None,
    confidence: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Heat maps of the confidence, where it was exported."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open a window; q or Esc ends.")] = False,
    max_frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many frames.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="A", help="Weight of the labels' colours, 0 to 1.")
    ] = 0.5,
    backend: options.Backend = None,
    device: options.Device = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    allow_fallback: options.AllowFallback = False,
    cuda_binding: options.CudaBinding = None,
    expect_sha256: options.ExpectSha256 = None,
    as_json: options.Json = False,
) -> None:
    """Label the frames of an image, a folder or a video."""
    wanted = _Wanted(overlay, masks, confidence, show, alpha)
    _refuse(source, wanted)
    from fcn_deploy.runtimes.registry import load

    with load(
        artefact,
        backend=backend,
        device=device,
        provider=provider,
        threads=threads,
        allow_fallback=allow_fallback,
        cuda_binding=cuda_binding,
        expect_sha256=expect_sha256,
    ) as segmenter:
        if confidence and "confidence" not in segmenter.spec.outputs:
            raise UsageError(
                f"{artefact} has no confidence output (it answers {', '.join(segmenter.spec.outputs)}); "
                "export it again with --outputs labels,confidence"
            )
        tally = _label(segmenter, source, wanted, max_frames)
        _report(artefact, source, segmenter, tally, wanted, as_json)
    if tally.interrupted:
        raise typer.Exit(console.INTERRUPTED)


def _refuse(source: Path, wanted: _Wanted) -> None:
    """Outputs that would overwrite the source or each other."""
    from fcn_deploy.datasets import IMAGE_SUFFIXES

    places = [place.resolve() for place in wanted.places()]
    threatened = [source.resolve()]
    if source.suffix.lower() in IMAGE_SUFFIXES:
        threatened.append(source.parent.resolve())
    if set(threatened) & set(places):
        raise UsageError(f"an output would overwrite frames of {source}; name another place to write to")
    if len(set(places)) < len(places):
        raise UsageError("two outputs have the same place; give each its own")


def _label(segmenter: Segmenter, source: Path, wanted: _Wanted, max_frames: int | None) -> _Tally:
    """Run the frames through the model and into the sinks; Ctrl-C ends it early, not badly."""
    from fcn_deploy.cli.outputs import WindowClosed
    from fcn_deploy.datasets import open_source

    frames = open_source(source, segmenter.spec.color_order)
    total = _length(frames)
    tally = _Tally()
    with ExitStack() as opened, suppress(WindowClosed):
        sinks = _sinks(wanted, single=total == 1, fps=getattr(frames, "fps", _FOLDER_FPS), opened=opened)
        expected = max_frames if total is None else min(total, max_frames or total)
        advance = opened.enter_context(console.progress("frames", expected))
        try:
            for frame in itertools.islice(frames, max_frames):
                _one(segmenter, frame, sinks, tally)
                advance()
        except KeyboardInterrupt:
            if tally.frames == 0:
                raise  # nothing to keep
            tally.interrupted = True
    return tally


def _sinks(wanted: _Wanted, *, single: bool, fps: float, opened: ExitStack) -> list[Sink]:
    from fcn_deploy.cli import outputs

    sinks: list[Sink] = []
    if wanted.overlay:
        sinks.append(
            outputs.overlay_sink(wanted.overlay, single=single, fps=fps, alpha=wanted.alpha, opened=opened)
        )
    if wanted.masks:
        sinks.append(outputs.labels_sink(wanted.masks))
    if wanted.confidence:
        sinks.append(outputs.confidence_sink(wanted.confidence))
    if wanted.show:
        sinks.append(outputs.window_sink(single=single, alpha=wanted.alpha, opened=opened))
    return sinks


def _one(segmenter: Segmenter, frame: Frame, sinks: list[Sink], tally: _Tally) -> None:
    import numpy as np

    begun = time.perf_counter()
    answer = segmenter.infer(frame.image)
    tally.infer_seconds += time.perf_counter() - begun
    for sink in sinks:
        sink(frame, answer)
    counted = np.bincount(answer.labels.ravel(), minlength=256)
    tally.pixels = counted if tally.pixels is None else tally.pixels + counted
    tally.frames += 1


def _length(frames: Any) -> int | None:
    """How many frames a source has; None for a video that does not say."""
    if hasattr(frames, "count") and not callable(frames.count):
        count: int | None = frames.count
        return count
    return len(frames)


def _report(
    artefact: Path, source: Path, segmenter: Segmenter, tally: _Tally, wanted: _Wanted, as_json: bool
) -> None:
    seconds = time.perf_counter() - tally.begun
    shares = tally.shares(segmenter.spec)
    if as_json:
        console.write_json(
            {
                "artefact": str(artefact),
                "source": str(source),
                "backend": segmenter.backend,
                "device": segmenter.device,
                "precision": segmenter.precision,
                "frames": tally.frames,
                "seconds": seconds,
                "infer_seconds": tally.infer_seconds,
                "frames_per_second": tally.frames / seconds,
                "class_shares": shares,
                "written": wanted.places(),
                "interrupted": tally.interrupted,
                "note": segmenter.spec.note,
            }
        )
        return
    out = console.Printer()
    if tally.interrupted:
        out.say("Interrupted; what was made until then is complete.")
    out.say(
        f"{tally.frames} frame{'s' * (tally.frames > 1)} in {seconds:.1f} s "
        f"({tally.frames / seconds:.1f} a second, "
        f"{1e3 * tally.infer_seconds / tally.frames:.1f} ms each in the model) "
        f"with {segmenter.backend} on {segmenter.device}, {segmenter.precision}"
    )
    if segmenter.spec.note:
        out.say(f"Note: {segmenter.spec.note}")
    out.pairs(((name, f"{share:6.1%}") for name, share in shares.items() if share > 0), indent=2)
    for place in wanted.places():
        out.say(f"Wrote {place}")
    if not wanted.places() and not wanted.show:
        out.say("Nothing was written; add --overlay PATH or --masks FOLDER.")
