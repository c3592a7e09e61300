"""The time to show a frame: the overlay, the preview in a browser, a video, and label maps.

    python benchmarks/overlay.py [--size 720x960] [--rounds 100]

Medians and spread of one frame on one core, with the legend, labels in patches as a model gives them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fcn_deploy.camera import CameraFrame, Delivery, LabelPngs, OverlayVideo, Preview
from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.draw import Overlay
from fcn_deploy.runtimes.base import Segmentation
from fcn_deploy.spec import Architecture, ModelSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="720x960")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    spec = ModelSpec(
        classes=CAMVID_CLASSES,
        palette=CAMVID_PALETTE,
        architecture=Architecture("fcn8s-lite"),
        note="benchmark",
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse = rng.integers(0, spec.num_classes, (-(-height // 32), -(-width // 32)), dtype=np.uint8)
    labels = np.ascontiguousarray(np.kron(coarse, np.ones((32, 32), np.uint8))[:height, :width])
    frame = CameraFrame(image, "000000", 0, time.monotonic())
    delivery = Delivery(frame, Segmentation(labels[None], spec), 0.0)
    draw = Overlay(0.5)
    with tempfile.TemporaryDirectory() as folder, Preview(port=0) as preview:
        video, maps = OverlayVideo(Path(folder) / "o.mp4", 30.0), LabelPngs(Path(folder) / "labels")
        with video, maps:
            ways: dict[str, Callable[[], object]] = {
                "overlay with legend": lambda: draw(image, labels, spec),
                "preview, no viewers": lambda: preview(delivery),
                "overlay video": lambda: video(delivery),
                "label PNG": lambda: maps(delivery),
            }
            for name, way in ways.items():
                times = sorted(timed(way, args.rounds))
                quarter = len(times) // 4
                print(
                    f"{name:22} {statistics.median(times):7.3f} ms "
                    f"(middle half {times[quarter]:.3f} to {times[-quarter - 1]:.3f})"
                )


def timed(way: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for turn in range(-5, rounds):
        began = time.perf_counter()
        way()
        if turn >= 0:
            times.append(1e3 * (time.perf_counter() - began))
    return times


if __name__ == "__main__":
    main()
