"""``fcn-deploy clip``: writes the synthetic street clip as files, for machines without recordings."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fcn_deploy.cli import console, options
from fcn_deploy.errors import UsageError

_FPS = 12.0
"""Frames per second of the video."""


def clip(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="For images/ and labels/, PNGs of the same names.", show_default=False
        ),
    ],
    frames: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="How many.")] = 48,
    size: Annotated[str, typer.Option(metavar="HxW", help="Of each frame.")] = "360x480",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Each seed gives another street.")] = 0,
    video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it as a video too, such as clip.mp4.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write the synthetic street clip with its labels."""
    height, width = options.parse_size(size, "--size")
    names = [f"{index:06d}.png" for index in range(frames)]
    for part in ("images", "labels"):
        _refuse_other_files(folder / part, set(names))
    from fcn_deploy.camera.sinks.files import write_picture
    from fcn_deploy.camera.sinks.video_file import VIDEO_SUFFIXES
    from fcn_deploy.classes import CAMVID_PALETTE
    from fcn_deploy.cli.outputs import video_file
    from fcn_deploy.data.images import write_labels
    from fcn_deploy.data.street import SyntheticStreet
    from fcn_deploy.files import output_folder

    if video and video.suffix.lower() not in VIDEO_SUFFIXES:
        raise UsageError(f"--video {video}: expected a name that ends in {', '.join(VIDEO_SUFFIXES)}")
    images, labels = output_folder(folder / "images"), output_folder(folder / "labels")
    street = SyntheticStreet(frames=frames, height=height, width=width, seed=seed, color_order="rgb")
    with ExitStack() as opened:
        append = opened.enter_context(video_file(video, _FPS)) if video else None
        advance = opened.enter_context(console.progress("frames", frames))
        for name, frame in zip(names, street, strict=True):
            assert frame.labels is not None, "the clip has labels"
            write_picture(images / name, frame.image)
            write_labels(labels / name, frame.labels, CAMVID_PALETTE)
            if append:
                append(frame.image)
            advance()
    if as_json:
        console.write_json(
            {"folder": str(folder), "frames": frames, "height": height, "width": width, "seed": seed}
        )
        return
    out = console.Printer()
    out.say(f"Wrote {frames} frames of {height}x{width} to {images} and their labels to {labels}")
    if video:
        out.say(f"Wrote {video}")
    out.say(f"Next: fcn-deploy eval ARTEFACT --data {folder}")


def _refuse_other_files(folder: Path, names: set[str]) -> None:
    """Refuse a folder with other files: frames of another clip would be taken for frames of this one."""
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - names)):
        raise UsageError(
            f"{folder} already holds {len(others)} other files ({others[0]}, ...); name another folder"
        )
