"""What each rewrite of the deploy graph gains, and that it changes no number.

    python benchmarks/rewrites.py [--variant fcn8s-lite] [--size 360x480] [--rounds 15] [--json out.json]

For each rewrite two graphs are exported: all rewrites on, and all but this one. They are compared
logit by logit at odd, tiny and large sizes, then timed in turns in one process (ONNX Runtime, CPU,
the order rotated each time); the ratio is taken round by round. The last rows are no rewrites
at all, and the same with transposed convolutions for upscores, which is what a plain export of a
learned or Caffe-style network holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.onnx import trace
from fcn_deploy.model.checkpoints.describe import describe
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.model.deploy import DeployModel
from fcn_deploy.model.fcn8s import FCN8s
from fcn_deploy.model.network import NO_REWRITES, Rewrites
from fcn_deploy.spec import ModelSpec
from fcn_deploy.testing import onnxruntime_session

SIZES = ((1, 1), (2, 3), (31, 33), (97, 131), (224, 224), (375, 500), (512, 512), (720, 960))


def session_of(model: FCN8s, spec: ModelSpec, rewrites: Rewrites, threads: int) -> Any:
    graph = trace(DeployModel(model, spec, rewrites=rewrites).eval())
    return onnxruntime_session(graph, threads=threads)


def largest_difference(model: FCN8s, spec: ModelSpec, rewrites: Rewrites) -> float:
    """Largest logit difference against no rewrites, over all sizes, relative to the largest logit."""
    logits = spec.replace(outputs=("labels", "logits"))
    worst = 0.0
    plain = trace(DeployModel(model, logits, rewrites=NO_REWRITES).eval())
    other = trace(DeployModel(model, logits, rewrites=rewrites).eval())
    with open_session(plain) as a, open_session(other) as b:
        for height, width in SIZES:
            frames = np.random.default_rng(height).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            x = a.run(["logits"], {"image": frames})[0]
            y = b.run(["logits"], {"image": frames})[0]
            worst = max(worst, float(np.abs(x - y).max() / np.abs(x).max()))
    return worst


def in_turns(sessions: dict[str, Any], frames: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each session in each round; the order is rotated every round."""
    names = list(sessions)
    for name in names:
        sessions[name].run(None, {"image": frames})
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            sessions[name].run(None, {"image": frames})
            times[name].append(1e3 * (time.perf_counter() - began))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variant", default="fcn8s-lite")
    parser.add_argument("--num-classes", type=int, default=11)
    parser.add_argument("--fc-channels", type=int)
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))

    model, info = random_model(args.num_classes, args.variant, fc_channels=args.fc_channels)
    # A scale other than one and a colour swap, so that folding them has something to fold.
    spec = describe(model, info, std=(57.0, 58.0, 59.0), color_order="rgb")
    wide = dataclasses.asdict(Rewrites())
    variants = {"all rewrites": Rewrites()}
    variants |= {f"without {name}": Rewrites(**{**wide, name: False}) for name in wide}
    variants["no rewrites"] = NO_REWRITES
    sessions = {name: session_of(model, spec, r, args.threads) for name, r in variants.items()}
    differences = {name: largest_difference(model, spec, r) for name, r in variants.items()}
    if model.variant.resize:
        free = FCN8s(
            model.num_classes,
            model.variant.name,
            width=model.width,
            fc_channels=model.fc_channels,
            learned_upscore=True,
        )
        free.load_state_dict(model.state_dict())
        spec = spec.replace(learned_upscore=True)
        sessions["no rewrites, ConvTranspose"] = session_of(free.eval(), spec, NO_REWRITES, args.threads)

    frames = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    times = in_turns(sessions, frames, args.rounds)
    rows = []
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times["all rewrites"], strict=True)]
        rows.append(
            {
                "graph": name,
                "median_ms": statistics.median(own),
                "min_ms": min(own),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "largest_relative_difference": differences.get(name),
            }
        )
        print(
            f"{name:28} {rows[-1]['median_ms']:9.2f} ms  x{rows[-1]['ratio']:.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})  difference {differences.get(name)}"
        )
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args), "rows": rows}, indent=1, default=str))


if __name__ == "__main__":
    main()
