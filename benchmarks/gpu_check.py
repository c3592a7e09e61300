"""What only a machine with an NVIDIA GPU can show, in one written report.

    python benchmarks/gpu_check.py [--out gpu-check] [--frames 10000] [--size 360x480]
    python benchmarks/gpu_check.py --engine model.engine --onnx model.onnx

Without --engine the bundled model is exported and an engine built of each precision. Every engine is
then compared with ONNX Runtime on the CPU with the same ONNX file, timed beside trtexec where that is
installed, timed with and without overlap, and fed frames of varying size through every CUDA binding
that is installed, while the GPU's free memory is watched. report.md and report.json are written to --out.

A step that fails is marked in the report and the others continue; the exit code is then 1. `make gpu-check`
runs it.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fcn_deploy
from fcn_deploy.bench.machine import describe_machine, versions
from fcn_deploy.bench.stats import percentile
from fcn_deploy.data.street import SyntheticStreet
from fcn_deploy.lazy import installed
from fcn_deploy.metrics import label_agreement
from fcn_deploy.runtimes.cuda.gpus import describe_gpu, free_memory
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.runtimes.tensorrt.sidecar import TENSORRT_RTX, read_sidecar

PRECISIONS = {"fp32": (), "fp16": ("--fp16",), "int8+fp16": ("--int8", "--calib")}
"""Name -> options of build-engine."""

AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.95, "int8+fp16": 0.95}
"""The share of labels, by precision, below which a step fails: coarse, to find what is broken."""

LEAK = 32 << 20
"""Bytes of free memory that may be gone at the end: the driver keeps some for itself."""

COMMAND = "from fcn_deploy.cli import main; main()"

BINDINGS = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}
TRTEXEC = {False: ("trtexec", "/usr/src/tensorrt/bin/trtexec"), True: ("tensorrt_rtx",)}
"""By whether the engine is TensorRT-RTX's."""


@dataclass
class Report:
    """What was found so far."""

    facts: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)

    def step(self, name: str, do: Callable[[], dict[str, Any]]) -> None:
        """Run one step; an exception is its result."""
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        try:
            found = do()
        except Exception as exc:
            traceback.print_exc()
            found = {"ok": False, "error": f"{type(exc).__name__}: {exc}"}
        found = {"step": name, "seconds": round(time.monotonic() - began, 1), "ok": True, **found}
        print(f"  {json.dumps({k: v for k, v in found.items() if k != 'step'})}", flush=True)
        self.steps.append(found)

    def write(self, folder: Path) -> None:
        """report.json with everything, report.md to read."""
        data = {"facts": self.facts, "steps": self.steps}
        (folder / "report.json").write_text(json.dumps(data, indent=1, default=str) + "\n")
        lines = ["# GPU check", "", *(f"- {key}: {value}" for key, value in self.facts.items()), ""]
        lines += ["| step | ok | s | found |", "| --- | --- | --- | --- |"]
        for step in self.steps:
            rest = {k: v for k, v in step.items() if k not in ("step", "ok", "seconds")}
            details = ", ".join(f"{k} {v}" for k, v in rest.items()).replace("|", "/").replace("\n", " ")
            lines.append(
                f"| {step['step']} | {'yes' if step['ok'] else '**no**'} | {step['seconds']} | {details} |"
            )
        (folder / "report.md").write_text("\n".join(lines) + "\n")


def command(*words: object) -> str:
    """Run the command line; its stdout."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


def build(folder: Path, precision: str, height: int, width: int) -> dict[str, Any]:
    """An engine of one precision, built by the command line; its size and precision."""
    onnx, engine = folder / "model.onnx", folder / f"model.{precision}.engine"
    options: list[object] = [*PRECISIONS[precision]]
    if "--calib" in options:
        options.append(folder / "clip" / "images")
    profile = f"1x1x1:1x{height}x{width}:2x{2 * height}x{2 * width}"
    built = json.loads(command("build-engine", onnx, *options, "--profile", profile, "-o", engine, "--json"))
    return {
        "megabytes": round(built["bytes"] / 1e6, 1),
        "declared": built["sidecar"]["precision"]["declared"]["layers"],
        "achieved": built["sidecar"]["precision"]["achieved"],
    }


def sizes_of(profiles: tuple[Profile, ...]) -> list[tuple[int, int, int]]:
    """Min, opt and max of each profile, and an odd size between min and opt."""
    found = []
    for p in profiles:
        between = tuple((a + b) // 2 | 1 for a, b in zip(p.min, p.opt, strict=True))
        found += [p.min, p.opt, p.max, *([between] if p.fits(between) else [])]
    return list(dict.fromkeys(found))


def frames_of(size: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    batch, height, width = size
    street = SyntheticStreet(frames=max(batch, 2), height=height, width=width, seed=seed)
    return np.stack([street[i].image for i in range(batch)])


def parity(engine: Path, onnx: Path, precision: str) -> dict[str, Any]:
    """The labels of the engine against ONNX Runtime's on a CPU, at every kind of size."""
    shares = {}
    with fcn_deploy.load(engine) as ours, fcn_deploy.load(onnx, "onnxruntime", device="cpu") as theirs:
        for size in sizes_of(read_sidecar(engine).profiles):
            frames = frames_of(size)
            shares["x".join(map(str, size))] = round(
                label_agreement(theirs.infer(frames).labels, ours.infer(frames).labels), 5
            )
    return {"ok": min(shares.values()) >= AGREEMENT[precision], "agreement": shares}


def latency(engine: Path, size: tuple[int, int, int], calls: int) -> dict[str, Any]:
    """Stages by CUDA events, end to end, and frames a second with copies overlapped."""
    frames = frames_of(size)
    with fcn_deploy.load(engine) as segmenter:
        segmenter.warm_up(*size[1:], batch=size[0], runs=50)
        took, stages = [], []
        for _ in range(calls):
            began = time.perf_counter()
            segmenter.infer(frames)
            took.append(1e3 * (time.perf_counter() - began))
            stages.append(segmenter._runtime.device_times())
        began = time.perf_counter()
        for _ in segmenter.stream(frames for _ in range(calls)):
            pass
        overlapped = (time.perf_counter() - began) / calls
        details = segmenter.details()
    medians = {stage: round(percentile([one[stage] for one in stages], 50), 4) for stage in stages[0]}
    return {
        "end to end ms": {f"p{p}": round(percentile(took, p), 4) for p in (50, 90, 99)},
        "stages ms (p50)": medians,
        "ms a frame, overlapped": round(1e3 * overlapped / size[0], 4),
        "CUDA graph": details["cuda_graph"],
        "GPU MB": details["gpu_memory_mb"],
    }


def trtexec(engine: Path, size: tuple[int, int, int]) -> dict[str, Any]:
    """NVIDIA's own figures for the same engine: CUDA graph on, transfers counted."""
    rtx = read_sidecar(engine).flavor == TENSORRT_RTX
    tool = next((found for name in TRTEXEC[rtx] if (found := shutil.which(name))), None)
    if tool is None:
        return {"ok": True, "skipped": f"none of {', '.join(TRTEXEC[rtx])} is installed"}
    shape = "x".join(map(str, (*size, 3)))
    words = [tool, f"--loadEngine={engine}", f"--shapes=image:{shape}", "--useCudaGraph", "--duration=5"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    pattern = r"(H2D Latency|GPU Compute Time|D2H Latency|Latency): .*?median = ([\d.]+) ms"
    return {name: float(value) for name, value in re.findall(pattern, done.stdout)}


def leaks(engine: Path, binding: str, count: int) -> dict[str, Any]:
    """Frames of varying size; the GPU memory lost over all of them, and after the first hundred."""
    profiles = read_sidecar(engine).profiles
    rng = np.random.default_rng(0)
    before = free_memory()
    middle = end = None
    with fcn_deploy.load(engine, cuda_binding=binding) as segmenter:
        for number in range(count):
            p = profiles[number % len(profiles)]
            size = tuple(int(rng.integers(a, b + 1)) for a, b in zip(p.min, p.max, strict=True))
            segmenter.infer(np.zeros((*size, 3), np.uint8))
            if number == min(99, count - 1):
                middle = free_memory()
        end = free_memory()
    gc.collect()
    after = free_memory()
    assert None not in (before, middle, end, after)
    steady, gone = middle - end, before - after  # type: ignore[operator]
    return {
        "ok": gone <= LEAK and steady <= LEAK,
        "frames": count,
        "bytes gone after closing": gone,
        "bytes gone between frame 100 and the last": steady,
    }


def check(report: Report, engine: Path, onnx: Path, precision: str, args: argparse.Namespace) -> None:
    """Every step for one engine."""
    size = read_sidecar(engine).profiles[0].opt
    report.step(f"{engine.name}: labels as ONNX Runtime's", lambda: parity(engine, onnx, precision))
    report.step(f"{engine.name}: latency", lambda: latency(engine, size, args.calls))
    report.step(f"{engine.name}: trtexec", lambda: trtexec(engine, size))
    for binding, module in BINDINGS.items():
        if installed(module):
            report.step(
                f"{engine.name}: {args.frames} frames, {binding}",
                lambda binding=binding: leaks(engine, binding, args.frames),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=500, help="timed calls of each engine")
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--engine", type=Path, help="check this one instead of building")
    parser.add_argument("--onnx", type=Path, help="the file that --engine was built from")
    args = parser.parse_args()
    if (gpu := describe_gpu()) is None:
        sys.exit("no NVIDIA GPU can be used here; see: fcn-deploy doctor")
    args.out.mkdir(parents=True, exist_ok=True)
    machine = {k: v for k, v in describe_machine().items() if k in ("cpu", "board", "os", "gpu")}
    report = Report({**machine, "gpu": gpu, "versions": versions()})
    if args.engine:
        check(report, args.engine, args.onnx, read_sidecar(args.engine).spec.precision, args)
    else:
        height, width = map(int, args.size.split("x"))
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
            folder = Path(temporary)
            command("export", "--weights", "bundled", "-o", folder / "model.onnx")
            command("clip", folder / "clip", "--frames", 24, "--size", args.size)
            for precision in PRECISIONS:
                engine = folder / f"model.{precision}.engine"
                report.step(
                    f"{engine.name}: built",
                    lambda precision=precision: build(folder, precision, height, width),
                )
                if engine.exists():
                    check(report, engine, folder / "model.onnx", precision, args)
    report.write(args.out)
    print(f"Wrote {args.out / 'report.md'} and {args.out / 'report.json'}")
    sys.exit(0 if all(step["ok"] for step in report.steps) else 1)


if __name__ == "__main__":
    main()
