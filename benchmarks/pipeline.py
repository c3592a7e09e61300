"""What the camera pipeline costs: throughput beside the bare runtime and a plain loop, and its own work.

    python benchmarks/pipeline.py [--model model.onnx] [--size 360x480] [--frames 150] [--rounds 7]

1. A runtime that waits as a device does (it sleeps, and leaves the cores alone). *bare* calls it frame
   after frame with frames in memory; *loop* decodes a frame from a video, calls it, draws the
   overlay and encodes a JPEG, one after the other; *pipeline* does the same as the loop.
2. The pipeline's own cost: processor time of the whole process by frame, with frames in memory, no sink
   and a runtime that returns at once, over a plain loop with the same calls. With ``--model`` also with
   ONNX Runtime on one thread that does not spin, at the model's real pace.

The ways are called in turns, the order reversed each time; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fcn_deploy
from fcn_deploy.camera import IterableSource, Pipeline, open_source
from fcn_deploy.camera.frames import CameraFrame, Delivery
from fcn_deploy.camera.sinks.video_file import VideoFile
from fcn_deploy.data.street import SyntheticStreet
from fcn_deploy.draw import Overlay
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.testing import FakeRuntime

Way = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="an ONNX file for the second part")
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds that the device takes")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    street = SyntheticStreet(frames=min(args.frames, 48), height=height, width=width, color_order="bgr")
    drawn = [frame.image for frame in street]
    images = [drawn[index % len(drawn)] for index in range(args.frames)]
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with VideoFile(clip, 25.0) as video:
            for image in images:
                video.write(image, "bgr")
        throughput(images, clip, args.delay / 1e3, args.rounds)
    own_cost("a runtime that returns at once", lambda: Segmenter(FakeRuntime(rule=2)), images, args.rounds)
    if args.model:
        own_cost(
            "ONNX Runtime on one thread",
            lambda: fcn_deploy.load(args.model, device="cpu", threads=1, spinning=False),
            images[:40],
            args.rounds,
        )


def throughput(images: list[np.ndarray], clip: Path, delay: float, rounds: int) -> None:
    """Part 1."""
    with Segmenter(FakeRuntime(rule=2, delay=delay)) as segmenter:

        def bare() -> None:
            for image in images:
                segmenter.infer(image)

        def loop() -> None:
            sink = Overlaid()
            for index, frame in enumerate(fcn_deploy.data.video.Video(clip)):
                sent = CameraFrame(frame.image, frame.name, index, time.monotonic())
                sink(Delivery(sent, segmenter.infer(frame.image), 0.0))

        def pipeline() -> None:
            now = Pipeline(open_source(clip), segmenter, [Overlaid()]).run()
            assert now.delivered == len(images), now

        times = in_turns({"bare": bare, "loop": loop, "pipeline": pipeline}, rounds, time.perf_counter)
    for name, each in times.items():
        print(f"{name:9} {len(images) / statistics.median(each):6.2f} frames a second")
    print(f"pipeline / bare runtime  {spread(ratios(times['bare'], times['pipeline']))}")
    print(f"pipeline / loop          {spread(ratios(times['loop'], times['pipeline']))}")


def own_cost(what: str, opened: Callable[[], Segmenter], images: list[np.ndarray], rounds: int) -> None:
    """Part 2."""
    with opened() as segmenter:

        def loop() -> None:
            for image in images:
                segmenter.infer(image)

        def pipeline() -> None:
            assert Pipeline(IterableSource(images), segmenter).run().delivered == len(images)

        times = in_turns({"loop": loop, "pipeline": pipeline}, rounds, time.process_time)
    own = [1e3 * (p - b) / len(images) for b, p in zip(times["loop"], times["pipeline"], strict=True)]
    each = 1e3 * statistics.median(times["loop"]) / len(images)
    print(f"{what}: {each:.2f} core-ms a frame in a loop; the pipeline adds {spread(own)} core-ms a frame")


class Overlaid:
    """A sink with real work: the overlay as a JPEG."""

    def __init__(self) -> None:
        self._draw = Overlay(0.5)

    def __call__(self, delivery: Delivery) -> None:
        import cv2

        picture = self._draw(delivery.frame.image, delivery.labels, delivery.result.spec)
        cv2.imencode(".jpg", picture)


def in_turns(ways: dict[str, Way], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds by ``clock`` that each way took in each round; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):
        for name in sorted(ways, reverse=bool(turn % 2)):
            began = clock()
            ways[name]()
            if turn >= 0:
                times[name].append(clock() - began)
    return times


def ratios(base: list[float], other: list[float]) -> list[float]:
    return [b / o for b, o in zip(base, other, strict=True)]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
