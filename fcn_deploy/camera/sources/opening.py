"""Sources of frames: files, V4L2 devices, streams, a Jetson's CSI cameras, GStreamer pipelines."""

from __future__ import annotations

import sys
from pathlib import Path

from fcn_deploy.camera.sources.addresses import Address, parse_address
from fcn_deploy.camera.sources.base import Source
from fcn_deploy.camera.sources.gstreamer import checked_pipeline, csi_pipeline
from fcn_deploy.camera.sources.live import LiveSource, Opening
from fcn_deploy.camera.sources.opencv import require_backend, video_backends
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.recorded import FileSource, IterableSource
from fcn_deploy.errors import SourceError, UsageError

__all__ = [
    "FileSource",
    "IterableSource",
    "LiveSource",
    "SourceOptions",
    "open_source",
    "video_backends",
]


def open_source(
    what: str | int | Path, color_order: str = "bgr", options: SourceOptions | None = None
) -> Source:
    """A source for what the user typed. Files are looked at now, streams when they are iterated.

    Args:
        what: an image, a folder of images, a video; a V4L2 device (``0``, ``/dev/video0``); an RTSP,
            HTTP, UDP, RTMP or SRT URL; ``csi://0`` for a camera on a Jetson's CSI connector; or a
            GStreamer pipeline that ends in ``appsink``.
        color_order: ``bgr`` or ``rgb``: of the frames that it gives.
        options: what is asked of it; None asks for nothing.

    Raises:
        SourceError: a file is missing, empty or cannot be read.
        UsageError: the scheme, the colour order or a pipeline is wrong.
        BackendUnavailable: this OpenCV cannot open that kind of source; the message says how to get one
            that can.
        MissingDependency: OpenCV is not installed.
    """
    if color_order not in ("bgr", "rgb"):
        raise UsageError(f"color_order must be bgr or rgb, not {color_order!r}")
    options = options or SourceOptions()
    address = parse_address(what)
    if address.kind == "file":
        if not Path(str(address.target)).exists():
            raise SourceError(
                f"{address.target} does not exist; give an image, a folder of images, a video, a camera such "
                "as 0, or a URL such as rtsp://HOST/PATH"
            )
        return FileSource(str(address.target), color_order, options)
    return LiveSource(address.name, _OPENINGS[address.kind](address, options), color_order, options)


def _device(address: Address, options: SourceOptions) -> Opening:
    if sys.platform == "linux":
        require_backend("V4L2", address.name)
    settings: list[tuple[str, float]] = []
    if options.pixel_format is not None:  # first, because it decides which sizes and rates there are
        settings.append(("CAP_PROP_FOURCC", _fourcc(options.pixel_format)))
    if options.size is not None:
        settings.append(("CAP_PROP_FRAME_HEIGHT", options.size[0]))
        settings.append(("CAP_PROP_FRAME_WIDTH", options.size[1]))
    if options.fps is not None:
        settings.append(("CAP_PROP_FPS", options.fps))
    settings.append(("CAP_PROP_BUFFERSIZE", 1))
    return Opening(address.target, "V4L2", settings=tuple(settings))


def _url(address: Address, options: SourceOptions) -> Opening:
    require_backend("FFmpeg", address.name)
    udp = options.transport == "udp" and str(address.target).lower().startswith("rtsp")
    return Opening(
        address.target,
        "FFmpeg",
        {
            "CAP_PROP_OPEN_TIMEOUT_MSEC": round(1000 * options.open_timeout),
            "CAP_PROP_READ_TIMEOUT_MSEC": round(1000 * options.read_timeout),
            "CAP_PROP_N_THREADS": options.decoder_threads,
        },
        ffmpeg_options="rtsp_transport;udp" if udp else None,
    )


def _csi(address: Address, options: SourceOptions) -> Opening:
    require_backend("GStreamer", address.name)
    pipeline = csi_pipeline(int(address.target), options.size, options.fps, options.rotate)
    return Opening(pipeline, "GStreamer", turns=True)


def _gstreamer(address: Address, options: SourceOptions) -> Opening:
    pipeline = checked_pipeline(str(address.target))
    require_backend("GStreamer", "a GStreamer pipeline")
    return Opening(pipeline, "GStreamer")


_OPENINGS = {"device": _device, "url": _url, "csi": _csi, "gstreamer": _gstreamer}


def _fourcc(code: str) -> int:
    return sum(ord(character) << 8 * place for place, character in enumerate(code))
