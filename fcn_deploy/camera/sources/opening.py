"""Opens the source for what a user gives: a file, a V4L2 device, a URL, a CSI camera, a pipeline."""

from __future__ import annotations

import sys
from pathlib import Path

from fcn_deploy.camera.sources.addresses import Address, parse_address
from fcn_deploy.camera.sources.base import Source
from fcn_deploy.camera.sources.gstreamer import checked_pipeline, csi_pipeline
from fcn_deploy.camera.sources.live import CaptureSettings, LiveSource
from fcn_deploy.camera.sources.opencv import require_backend
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.recorded import FileSource
from fcn_deploy.data.images import check_color_order
from fcn_deploy.errors import SourceError


def open_source(
    what: str | int | Path, color_order: str = "bgr", options: SourceOptions | None = None
) -> Source:
    """Open a source. Files are checked now, devices and streams when they are iterated.

    Args:
        what: an image, a folder of images, a video; a V4L2 device (``0``, ``/dev/video0``); an RTSP,
            HTTP, UDP, RTMP or SRT URL; ``csi://0`` for a camera on a Jetson's CSI connector; or a
            GStreamer pipeline that ends in ``appsink``.
        color_order: ``bgr`` or ``rgb``: of its frames.
        options: None for the defaults.

    Raises:
        SourceError: a file is missing, empty or cannot be read.
        UsageError: the scheme, the colour order or a pipeline is wrong.
        BackendUnavailable: this OpenCV cannot open that kind of source; the message says which one can.
        MissingDependency: OpenCV is not installed.
    """
    check_color_order(color_order)
    options = options or SourceOptions()
    address = parse_address(what)
    if address.kind == "file":
        if not Path(str(address.target)).exists():
            raise SourceError(
                f"{address.target} does not exist; give an image, a folder of images, a video, a camera such "
                "as 0, or a URL such as rtsp://HOST/PATH"
            )
        return FileSource(str(address.target), color_order, options)
    return LiveSource(address.name, _SETTINGS[address.kind](address, options), color_order, options)


def _device(address: Address, options: SourceOptions) -> CaptureSettings:
    if sys.platform == "linux":
        require_backend("V4L2", address.name)
    properties: list[tuple[str, float]] = []
    if options.pixel_format is not None:  # first, because the sizes and rates depend on it
        properties.append(("CAP_PROP_FOURCC", _fourcc(options.pixel_format)))
    if options.size is not None:
        properties.append(("CAP_PROP_FRAME_HEIGHT", options.size[0]))
        properties.append(("CAP_PROP_FRAME_WIDTH", options.size[1]))
    if options.fps is not None:
        properties.append(("CAP_PROP_FPS", options.fps))
    properties.append(("CAP_PROP_BUFFERSIZE", 1))
    return CaptureSettings(address.target, "V4L2", properties=tuple(properties))


def _url(address: Address, options: SourceOptions) -> CaptureSettings:
    require_backend("FFmpeg", address.name)
    udp = options.transport == "udp" and str(address.target).lower().startswith("rtsp")
    return CaptureSettings(
        address.target,
        "FFmpeg",
        {
            "CAP_PROP_OPEN_TIMEOUT_MSEC": round(1000 * options.open_timeout),
            "CAP_PROP_READ_TIMEOUT_MSEC": round(1000 * options.read_timeout),
            "CAP_PROP_N_THREADS": options.decoder_threads,
        },
        ffmpeg_options="rtsp_transport;udp" if udp else None,
    )


def _csi(address: Address, options: SourceOptions) -> CaptureSettings:
    require_backend("GStreamer", address.name)
    pipeline = csi_pipeline(int(address.target), options.size, options.fps, options.rotate)
    return CaptureSettings(pipeline, "GStreamer", rotates=True)


def _gstreamer(address: Address, options: SourceOptions) -> CaptureSettings:
    pipeline = checked_pipeline(str(address.target))
    require_backend("GStreamer", "a GStreamer pipeline")
    return CaptureSettings(pipeline, "GStreamer")


_SETTINGS = {"device": _device, "url": _url, "csi": _csi, "gstreamer": _gstreamer}


def _fourcc(code: str) -> int:
    return sum(ord(character) << 8 * place for place, character in enumerate(code))
