"""What a camera pipeline does after a fault, and how long until it has stopped or recovered.

    python benchmarks/camera_faults.py [model.onnx]

Each fault is real where it can be: an RTSP server that is killed or frozen, an MJPEG camera that sends half
pictures, a disk of 256 KB that becomes full (a tmpfs; only the superuser can mount one), signals to the
command line. Needs what tests/camera/rtsp_server.py needs. With a model the signals are sent while it runs.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "camera"))
import mjpeg_server
import numpy as np
import rtsp_server

from fcn_deploy.camera import IterableSource, Pipeline, Source, SourceOptions, open_source
from fcn_deploy.camera.sinks.overlay_video import OverlayVideo
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime

SIZE = (240, 320)
COMMAND = (sys.executable, "-c", "from fcn_deploy.cli import main; main()")


def main() -> None:
    logging.getLogger("fcn_deploy.camera").setLevel(logging.ERROR)
    print("fault | what happens | seconds")
    print("--- | --- | ---")
    for name, fault in FAULTS.items():
        outcome, seconds = fault()
        print(f"{name} | {outcome} | {seconds:.2f}", flush=True)


def unplugged() -> tuple[str, float]:
    """An RTSP server killed for two seconds; time from its new start to the next delivery."""
    with rtsp_server.Server(SIZE) as server, Running(open_source(server.url)) as run:
        run.wait_for(10)
        server.kill()
        time.sleep(2)
        server.start()
        started, before = time.monotonic(), run.delivered
        run.wait_for(before + 1)
        return f"frames again after {run.statistics().reconnects} reconnect", time.monotonic() - started


def frozen() -> tuple[str, float]:
    """A server that keeps its connection and sends nothing; time from freezing to the loss being noticed."""
    options = SourceOptions(read_timeout=2.0)
    with rtsp_server.Server(SIZE) as server, Running(open_source(server.url, options=options)) as run:
        run.wait_for(10)
        server.freeze()
        frozen_at = time.monotonic()
        while run.statistics().cameras[0].phase == "streaming":
            time.sleep(0.01)
        noticed = time.monotonic() - frozen_at
        server.thaw()
        before = run.delivered
        run.wait_for(before + 1)
        return "noticed after the read timeout of 2 s; frames again once it continues", noticed


def unplugged_for_good() -> tuple[str, float]:
    """The same, with ``give_up`` at one second: the run ends."""
    options = SourceOptions(give_up=1.0)
    with rtsp_server.Server(SIZE) as server, Running(open_source(server.url, options=options)) as run:
        run.wait_for(10)
        server.kill()
        return run.ended_after("give_up=1")


def corrupt() -> tuple[str, float]:
    """Every fifth JPEG cut in half."""
    with mjpeg_server.Camera(SIZE, fps=30) as camera:
        camera.spoil = lambda jpeg, index: jpeg[: len(jpeg) // 2] if index % 5 == 4 else jpeg
        with Running(open_source(camera.url)) as run:
            run.wait_for(1)
            began = time.monotonic()
            run.wait_for(run.delivered + 60)
            now = run.statistics()
            outcome = f"{now.delivered} delivered, {now.reconnects} reconnects: continues"
            return f"{outcome} (time: 60 frames at 30 a second)", time.monotonic() - began


def disk_full() -> tuple[str, float]:
    """An overlay video on a disk that is too small for it."""
    with small_disk() as folder:
        if folder is None:
            return "not run: only the superuser can make a small disk", float("nan")
        sink = OverlayVideo(folder / "overlay.mp4", 30.0)
        with Running(noise(), [sink]) as run:
            return run.ended_after("video on 256 KB")


def slow_consumer() -> tuple[str, float]:
    """A live source of 100 frames a second and a sink that takes 10."""
    with Running(noise(live=True, fps=100), [lambda _: time.sleep(0.1)]) as run:
        run.wait_for(30)
        now = run.statistics()
        assert now.age is not None
        outcome = f"{now.dropped} of {now.captured} dropped, age p99 {1e3 * now.age.p99:.0f} ms"
        return f"{outcome}; stopping takes", run.stopped_after()


def callback_fails() -> tuple[str, float]:
    """An exception in the user's callback."""
    failed: list[float] = []

    def callback(delivery: Any) -> None:
        if delivery.frame.index == 20:
            failed.append(time.monotonic())
            raise ValueError("no such topic")

    with Running(noise(live=True, fps=50), [callback]) as run:
        outcome, _ = run.ended_after("callback")
        return outcome, run.ended - failed[0]


def model_fails() -> tuple[str, float]:
    """A runtime that loses its device."""
    failed: list[float] = []

    def rule(images: np.ndarray) -> np.ndarray:
        if images[0, 0, 0, 0] == 20:
            failed.append(time.monotonic())
            raise RuntimeError("device lost")
        return images[..., 0]

    frames = (np.full((*SIZE, 3), index, np.uint8) for index in range(200))
    with Running(IterableSource(frames, live=True, fps=50), rule=rule) as run:
        outcome, _ = run.ended_after("model")
        return outcome, run.ended - failed[0]


def by_signal(number: signal.Signals) -> tuple[str, float]:
    """The command line, with an overlay video of an RTSP stream; whether the video is complete."""
    import cv2

    model = sys.argv[1] if len(sys.argv) > 1 else None
    if model is None:
        return "not run: needs a model", float("nan")
    with tempfile.TemporaryDirectory() as folder, rtsp_server.Server(SIZE) as server:
        out = Path(folder) / "overlay.mp4"
        process = subprocess.Popen(
            [*COMMAND, "run", model, server.url, "--overlay", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        time.sleep(6)
        process.send_signal(number)
        sent = time.monotonic()
        outcome, _ = process.communicate()
        seconds = time.monotonic() - sent
        counted = next(line for line in outcome.splitlines() if "frame" in line).split()[0]
        video = cv2.VideoCapture(str(out))
        found = 0
        while video.read()[0]:
            found += 1
    return f"exit code {process.returncode}; {counted} frames delivered, {found} in the video", seconds


class Running:
    """A pipeline in a thread, and how it ended."""

    def __init__(self, source: Source, sinks: list[Any] | None = None, rule: Any = 2) -> None:
        self.delivered = 0
        self.ended = float("nan")
        self.error: Exception | None = None
        self._segmenter = Segmenter(FakeRuntime(rule=rule, delay=0.01))
        self._pipeline = Pipeline(source, self._segmenter, [*(sinks or []), self._count])
        self.statistics = self._pipeline.statistics
        self._thread = threading.Thread(target=self._run, daemon=True)

    def wait_for(self, delivered: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.delivered < delivered:
            assert time.monotonic() < deadline, f"{self.delivered} frames: {self.error}"
            time.sleep(0.002)

    def ended_after(self, what: str) -> tuple[str, float]:
        """Wait for the end; seconds from now."""
        began = time.monotonic()
        self._thread.join(60)
        assert not self._thread.is_alive(), what
        return f"ends: {self.error} ({self._counts()})", self.ended - began

    def stopped_after(self) -> float:
        began = time.monotonic()
        self._pipeline.stop()
        self._thread.join(60)
        return self.ended - began

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped_after()
        self._segmenter.close()
        assert "in flight 0" in self._counts(), self._counts()

    def _run(self) -> None:
        try:
            self._pipeline.run()
        except Exception as exc:
            self.error = exc
        self.ended = time.monotonic()

    def _count(self, _: Any) -> None:
        self.delivered += 1

    def _counts(self) -> str:
        now = self.statistics()
        kinds = ("captured", "delivered", "dropped", "failed", "in_flight")
        return ", ".join(f"{kind.replace('_', ' ')} {getattr(now, kind)}" for kind in kinds)


def noise(live: bool = False, fps: float | None = None) -> IterableSource:
    """A thousand frames that no encoder makes small."""
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(1000))
    return IterableSource(frames, live=live, fps=fps)


@contextmanager
def small_disk() -> Iterator[Path | None]:
    with tempfile.TemporaryDirectory() as folder:
        mounted = os.geteuid() == 0 and not subprocess.call(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], stderr=subprocess.DEVNULL
        )
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.check_call(["umount", folder])


FAULTS: dict[str, Callable[[], tuple[str, float]]] = {
    "stream killed for 2 s": unplugged,
    "stream freezes": frozen,
    "stream gone, give_up=1": unplugged_for_good,
    "corrupt frames": corrupt,
    "disk full": disk_full,
    "consumer slower than camera": slow_consumer,
    "exception in the callback": callback_fails,
    "model fails": model_fails,
    "SIGINT": lambda: by_signal(signal.SIGINT),
    "SIGTERM": lambda: by_signal(signal.SIGTERM),
}

if __name__ == "__main__":
    main()
