"""What build-engine costs over the bare calls on TensorRT-RTX, on the same ONNX file.

    python benchmarks/build_overhead.py model.onnx [--rounds 7]

All parse the file, build with the same profile and target, and write the engine. What build-engine adds is
the start of the process that TensorRT runs in, reading the graph for its precision and memory, hashing the
file and the engine, progress, the sidecar, and flushing both to disk; the bare calls followed by
fsync show how long the last takes.

Each build is timed in a fresh process, as users run it, because a second one reuses memory of the first. What
that process imports is not timed; what the one of build-engine imports is. The ways take turns; ratios are
taken round by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROFILE = ((1, 360, 480), (1, 360, 480), (1, 720, 960))
WAYS = ("bare", "bare with fsync", "build_engine")


def bare(model: str, output: Path, *, fsync: bool) -> None:
    """As TensorRT's samples build an engine."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(model):
        raise SystemExit(parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((*size, 3) for size in PROFILE))
    config.add_optimization_profile(profile)
    with open(output, "wb") as stream:
        stream.write(builder.build_serialized_network(network, config))
        stream.flush()
        if fsync:
            os.fsync(stream.fileno())


def ours(model: str, output: Path) -> None:
    from fcn_deploy.building import build_engine

    text = ":".join("x".join(map(str, size)) for size in PROFILE)
    build_engine(model, output, profiles=[text], flavor="rtx", compute_capabilities=["8.6"])


def build_once(way: str, model: str, output: Path) -> float:
    """Seconds of one build in this process."""
    import onnx  # noqa: F401
    import tensorrt_rtx  # noqa: F401

    import fcn_deploy.building
    import fcn_deploy.export.tensorrt.engine  # noqa: F401

    began = time.perf_counter()
    if way == "build_engine":
        ours(model, output)
    else:
        bare(model, output, fsync=way == "bare with fsync")
    return time.perf_counter() - began


def measure(way: str, model: str, folder: str) -> float:
    command = [sys.executable, __file__, model, "--once", way, "--folder", folder]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where engines are written; a temporary one by default")
    parser.add_argument("--once", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.once:
            print(build_once(args.once, args.model, Path(folder, "x.engine")))
            return
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(-1, args.rounds):  # the first one fills the system's file cache and is not counted
            for place in range(len(WAYS)):
                way = WAYS[(turn + place) % len(WAYS)]
                took = measure(way, args.model, folder)
                if turn >= 0:
                    times[way].append(took)
    for way, values in times.items():
        print(f"{way}: {statistics.median(values):.2f} s")
    for way, base in (("build_engine", "bare"), ("build_engine", "bare with fsync"), (WAYS[1], "bare")):
        ratios = sorted(a / b for a, b in zip(times[way], times[base], strict=True))
        print(f"{way} / {base}: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
