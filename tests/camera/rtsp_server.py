"""An RTSP server on loopback that draws the time into what it serves.

It needs Debian's packages ``gir1.2-gst-rtsp-server-1.0``, ``python3-gi`` and
``gstreamer1.0-plugins-{base,good,ugly}``, which belong to the system's own Python. So :class:`Server`
runs this file with that Python, in a process that can be stopped, killed and started again.

Every frame carries milliseconds of the machine's monotonic clock as black and white blocks along its
top (:mod:`stamps <drawn_time>`), drawn just before the frame is encoded. Its age at delivery
therefore holds encoder, network, decoder and every queue between them.

    python tests/camera/rtsp_server.py --port 8554 --size 360x480 --fps 30
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve()
SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi python3-numpy gstreamer1.0-plugins-{base,good,ugly}"
PATH = "/clip"

_PROBE = """
import numpy, gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
for name in ("appsrc", "videoconvert", "x264enc", "rtph264pay"):
    assert Gst.ElementFactory.find(name), name + " is missing"
"""


@functools.cache
def problem() -> str | None:
    """Why the server cannot run here, in words; None where it can."""
    if not Path(SYSTEM_PYTHON).exists():
        return f"there is no {SYSTEM_PYTHON}"
    done = subprocess.run([SYSTEM_PYTHON, "-c", _PROBE], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return f"needs {PACKAGES} ({(done.stderr.strip().splitlines() or ['no reason'])[-1]})"


class Server:
    """The server in a process of its own; a context manager.

    Args:
        size: height and width of the frames.
        fps: frames a second.
        port: a free one is taken where none is given; the same one is used after a restart.
        keyframe_every: frames from one key frame to the next.
    """

    def __init__(
        self,
        size: tuple[int, int] = (360, 480),
        fps: int = 30,
        port: int | None = None,
        keyframe_every: int = 15,
    ) -> None:
        self.size, self.fps, self.keyframe_every = size, fps, keyframe_every
        self.port = port or free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}{PATH}"

    def start(self) -> Server:
        """Start it and wait until it listens."""
        height, width = self.size
        self._process = subprocess.Popen(
            [
                *(SYSTEM_PYTHON, str(HERE), "--port", str(self.port), "--size", f"{height}x{width}"),
                *("--fps", str(self.fps), "--keyframe-every", str(self.keyframe_every)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip() == "listening", f"the RTSP server did not start: {line!r}"
        return self

    def kill(self) -> None:
        """End it as a power cut does: no good-bye to its clients."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Stop serving and keep the connections."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- what the system's Python runs -------------------------------------------------------------


def serve(port: int, size: tuple[int, int], fps: int, keyframe_every: int) -> None:
    """Serve until killed; every client sees the same encoder's stream."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    height, width = size
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=frames is-live=true do-timestamp=true format=time block=true max-buffers=1 "
        f"caps=video/x-raw,format=GRAY8,width={width},height={height},framerate={fps}/1 "
        "! videoconvert n-threads=1 ! video/x-raw,format=I420 "
        "! x264enc tune=zerolatency speed-preset=ultrafast bitrate=1500 threads=1 "
        f"key-int-max={keyframe_every} ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", lambda _, media: _feed(Gst, media, size, fps))
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    server.get_mount_points().add_factory(PATH, factory)
    assert server.attach(None), f"port {port} is taken"
    print("listening", flush=True)
    GLib.MainLoop().run()


def _feed(gst: Any, media: Any, size: tuple[int, int], fps: int) -> None:
    """Push frames, each at its time, from a thread that ends when the media does."""
    import threading

    source = media.get_element().get_by_name("frames")
    ended = threading.Event()
    media.connect("unprepared", lambda _: ended.set())

    def push() -> None:
        sys.path.insert(0, str(HERE.parent))
        from drawn_time import Clip

        clip = Clip(size)
        due = time.monotonic()
        while not ended.is_set():
            picture = clip.frame(time.monotonic())
            if source.emit("push-buffer", gst.Buffer.new_wrapped(picture.tobytes())) != gst.FlowReturn.OK:
                return
            due = max(due + 1 / fps, time.monotonic() - 1 / fps)
            ended.wait(max(0.0, due - time.monotonic()))

    threading.Thread(target=push, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8554)
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--keyframe-every", type=int, default=15)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    serve(args.port, (height, width), args.fps, args.keyframe_every)


if __name__ == "__main__":
    os.environ.setdefault("GST_DEBUG", "1")
    main()
