"""Peak memory of calibration by the number of frames: it must not grow with them.

    python benchmarks/calibration_memory.py model.onnx --calib FOLDER [--frames 8 --frames 200]

Each count runs in a process of its own; the peak is its largest resident set. One pass over the frames
gives the ranges of all methods, so there is one figure for the three of them, and one for the whole of
``quantize`` by each method.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def worker(model: str, calib: str, frames: int, method: str) -> None:
    """Quantise in this process and print its peak."""
    import fcn_deploy

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.onnx")
        fcn_deploy.quantize(model, output, calib=calib, target="cpu", method=method, max_frames=frames)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--frames", type=int, action="append")
    parser.add_argument("--method", action="append")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    counts, methods = args.frames or [8, 200], args.method or ["minmax", "percentile", "entropy"]
    if args.worker:
        worker(args.model, args.calib, counts[0], methods[0])
        return
    for method in methods:
        peaks = []
        for count in counts:
            command = [sys.executable, __file__, args.model, "--calib", args.calib, "--worker"]
            command += ["--frames", str(count), "--method", method]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True).stdout.split()[-1]))
            print(f"{method:12}{count:5} frames  peak {peaks[-1]:7.0f} MB", flush=True)
        print(f"{method:12}ratio {peaks[-1] / peaks[0]:.3f}", flush=True)


if __name__ == "__main__":
    main()
