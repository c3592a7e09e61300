"""What calling the wrapper costs over a bare ``session.run``, on the same file in one process.

    python benchmarks/overhead.py model.onnx [--size 360x480] [--rounds 60]

Two sessions with the same options are called in turns, the order turned round each time; the ratio is
taken round by round. The wrapper checks the frame, calls the session and wraps the result.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import fcn_deploy
from fcn_deploy.testing import onnxruntime_session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))

    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    # As fcn_deploy.runtimes.onnxruntime opens it.
    session = onnxruntime_session(args.model, threads=args.threads, enable_mem_pattern=False)
    with fcn_deploy.load(args.model, device="cpu", threads=args.threads, spinning=False) as segmenter:
        calls = {
            "bare": lambda: session.run(None, {"image": frame[None]}),
            "wrapped": lambda: segmenter.infer(frame),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(-5, args.rounds):
            for name in sorted(calls, reverse=bool(turn % 2)):
                began = time.perf_counter()
                calls[name]()
                if turn >= 0:
                    times[name].append(1e3 * (time.perf_counter() - began))
    ratios = sorted(w / b for w, b in zip(times["wrapped"], times["bare"], strict=True))
    quarter = len(ratios) // 4
    bare, wrapped = (statistics.median(times[name]) for name in ("bare", "wrapped"))
    print(f"bare {bare:.2f} ms, wrapped {wrapped:.2f} ms, ratio {statistics.median(ratios):.4f}")
    print(f"middle half of the rounds: {ratios[quarter]:.4f} to {ratios[-quarter - 1]:.4f}")


if __name__ == "__main__":
    main()
