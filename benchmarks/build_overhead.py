"""What build-engine costs over the bare calls on TensorRT-RTX, on the same ONNX file in one process.

    python benchmarks/build_overhead.py model.onnx [--rounds 7]

Both parse the file, build with the same profile and target, and write the engine. What comes on top is
reading the graph for its precision and memory, hashing the file and the engine, progress, the sidecar, and
waiting until the disk has both. The two are called in turns; the ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import tensorrt_rtx as trt

from fcn_deploy.export.engine import build_engine
from fcn_deploy.runtimes.engine_loading import log_for

PROFILE = ((1, 360, 480), (1, 360, 480), (1, 720, 960))


def bare(model: str, output: Path) -> None:
    """As TensorRT's samples build an engine."""
    logger = log_for(trt)  # a process has one
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
    output.write_bytes(builder.build_serialized_network(network, config))


def ours(model: str, output: Path) -> None:
    text = ":".join("x".join(map(str, size)) for size in PROFILE)
    build_engine(model, output, profiles=[text], flavor="rtx", compute_capabilities=["8.6"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, args.rounds):
            for name, build in sorted({"bare": bare, "ours": ours}.items(), reverse=bool(turn % 2)):
                began = time.perf_counter()
                build(args.model, Path(folder, f"{name}.engine"))
                if turn >= 0:
                    times[name].append(time.perf_counter() - began)
    ratios = sorted(o / b for o, b in zip(times["ours"], times["bare"], strict=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"bare {medians['bare']:.2f} s, build_engine {medians['ours']:.2f} s")
    print(f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
