"""The app: its commands with their examples, and the options before the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fcn_deploy import __version__
from fcn_deploy.cli.bench import bench
from fcn_deploy.cli.build_engine import build_engine
from fcn_deploy.cli.check import check
from fcn_deploy.cli.clip import clip
from fcn_deploy.cli.console import guarded, set_debug
from fcn_deploy.cli.doctor import doctor
from fcn_deploy.cli.eval import evaluate
from fcn_deploy.cli.export import export
from fcn_deploy.cli.inspect import inspect
from fcn_deploy.cli.quantize import quantize
from fcn_deploy.cli.run import run
from fcn_deploy.cli.wrap import wrap


class _Group(TyperGroup):
    """Accepts ``--debug`` after the command too, where users add it to a command that failed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = [word for word in args if word != "--debug"]
        return super().parse_args(ctx, [*["--debug"] * (len(rest) < len(args)), *rest])

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of their use, not alphabetical."""
        return list(self.commands)


# Plain help text: importing rich for it takes as long as everything else together.
app = typer.Typer(
    name="fcn-deploy",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fcn-deploy {__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 the run failed, 2 wrong use, 130 or 143 interrupted.")
def start(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="FCN_DEPLOY_DEBUG", help="Show where an error comes from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Semantic segmentation, from a checkpoint to measured frames on an edge device."""
    set_debug(debug)


def _add(name: str, command: Callable[..., None], *examples: str) -> None:
    # \b keeps the lines of a paragraph as they are.
    lines = "\n".join(f"  fcn-deploy {name} {example}".rstrip() for example in examples)
    app.command(name, epilog=f"\b\nExamples:\n{lines}")(guarded(command))


_add(
    "export",
    export,
    "--weights bundled -o model.onnx",
    "--weights fcn8s_from_caffe.pth -o model.onnx",
    "--weights mine.pth --variant fcn8s-same --classes names.txt -o model.onnx",
    "--weights bundled --precision fp16 --calib FOLDER -o model.fp16.onnx",
)
_add(
    "wrap",
    wrap,
    "segformer.onnx --scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -o model.onnx",
    "mmseg.onnx --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --classes names.txt -o model.onnx",
    "unet.onnx --scale 1/255 --mean 0,0,0 --std 1,1,1 --size-multiple 32 --threshold 0.4 -o model.onnx",
)
_add(
    "quantize",
    quantize,
    "model.onnx --target tensorrt --calib frames -o model.int8.onnx",
    "model.onnx --target cpu --calib drive.mp4 --max-drop 0.5 --eval camvid/val -o model.cpu.onnx",
    "model.onnx --target cpu --calib frames --sensitivity layers.json --chart layers.svg -o model.cpu.onnx",
)
_add(
    "build-engine",
    build_engine,
    "model.onnx --flavor rtx --compute-capability 8.6 --compute-capability 8.9 -o model.engine",
    "model.onnx --fp16 --profile 1x360x480:1x720x960:4x1080x1920 -o model.fp16.engine",
    "model.onnx --int8 --calib frames -o model.int8.engine",
)
_add(
    "run",
    run,
    "model.onnx photo.jpg --overlay photo.labels.png",
    "model.onnx clip.mp4 --overlay overlay.mp4 --masks labels",
    "model.onnx images/ --overlay overlays/ --max-frames 100",
    "model.onnx rtsp://camera/stream --serve 8080 --log-every 60",
    "model.onnx 0 --size 720x1280 --pixel-format MJPG --show",
    "model.onnx rtsp://front/1 rtsp://back/1 --on-error continue --overlay overlay.mp4",
)
_add(
    "eval",
    evaluate,
    "model.onnx --data camvid/val",
    "model.safetensors model.onnx --data camvid/val --json scores.json --confusion confusion.png",
)
_add(
    "check",
    check,
    "model.onnx answers.npz",
    "model.onnx answers.npz --picture worst.png --json",
    "model.engine answers.npz --min-agreement 0.99",
)
_add(
    "bench",
    bench,
    "model.safetensors model.onnx --typical --report report.html",
    "model.onnx --size 360x480 --size 720x960 --batch 1 --batch 4 --json bench.json",
)
_add("inspect", inspect, "model.onnx", "model.onnx --json")
_add("doctor", doctor, "", "--json")
_add("clip", clip, "clip --frames 48", "clip --size 720x960 --seed 3 --video clip.mp4")
