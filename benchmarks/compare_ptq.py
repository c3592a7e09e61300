"""Our INT8 beside NVIDIA ModelOpt's and NNCF's: one model, the same frames; mean IU, time, peak memory.

    python benchmarks/compare_ptq.py --model lite.onnx --calib camvid/train --data camvid/val
        --modelopt modelopt-env/bin/python --nncf nncf-env/bin/python
        [--frames 32] [--stride 1] [--keep FOLDER] [--json out.json]

The other tools run in environments of their own (what they need is written in benchmarks/ptq); a tool
without an interpreter is left out. Each quantisation is one process: its time is that of the call, its
memory the largest resident set of the whole process, with what it had after importing beside it.

Every ONNX result is scored twice in ONNX Runtime on the CPU. "As written" computes each node as the
graph says, without optimisation: the accuracy of the file itself. "Optimised" is how ONNX Runtime
runs it by default, on this CPU. They differ, and not only by rounding:

- ONNX Runtime 1.31 turns float biases of quantised convolutions into int32 (WeightBiasQuantization). In
  a graph whose rest is fp16 it takes the quotient of bias and scale in fp16, where more than 65504 is
  infinite, so a layer with a large bias or a small scale gives wrong results, without a warning.
- Weights of 8 bits saturate in the integer kernels of x86 CPUs without VNNI.

Neither concerns TensorRT, for which ModelOpt's files and our target tensorrt are meant. OpenVINO's own
format is scored in OpenVINO.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fcn_deploy.spec import ModelSpec

# fcn_deploy and what it opens are imported when everything is quantised. On Linux the peak memory of a
# new process starts at that of its parent, so this process has to stay small until then.

SCRIPTS = Path(__file__).parent / "ptq"


class Job(NamedTuple):
    """One tool with one setting."""

    name: str
    python: str
    script: str
    source: Path
    """Frames as the script wants them: a folder, or an array."""
    output: Path
    setting: list[str]


def jobs(args: argparse.Namespace, folder: Path, frames: Path) -> list[Job]:
    found = [
        Job(
            f"ours, {target}, entropy",
            sys.executable,
            "ours.py",
            args.calib,
            folder / f"ours-{target}.onnx",
            [target, "--frames", str(args.frames)],
        )
        for target in ("tensorrt", "cpu")
    ]
    if args.modelopt:
        for method in ("entropy", "max"):
            output = folder / f"modelopt-{method}.onnx"
            name = f"ModelOpt, {method}"
            found.append(Job(name, args.modelopt, "modelopt_onnx.py", frames, output, [method]))
    if args.nncf:
        for framework, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
            for preset in ("performance", "mixed"):
                output = folder / f"nncf-{framework}-{preset}{suffix}"
                name = f"NNCF, {framework}, {preset}"
                setting = [framework, preset]
                found.append(Job(name, args.nncf, "nncf_openvino.py", frames, output, setting))
    return found


def in_process(command: list[str], log: Path) -> dict[str, Any]:
    """Run it, write its output to ``log``, and return the JSON of its last line."""
    began = time.perf_counter()
    try:
        with log.open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    except OSError as exc:
        return {"failed": f"{command[0]} does not start: {exc.strerror}"}
    lines = log.read_text().split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {last}"}
    try:
        return {**json.loads(last), "process_seconds": time.perf_counter() - began}
    except ValueError:
        return {"failed": f"its last line is not JSON: {last}"}


def quantise_all(args: argparse.Namespace, folder: Path) -> list[tuple[Job, dict[str, Any]]]:
    frames = folder / "frames.npy"
    command = [sys.executable, str(SCRIPTS / "frames.py"), str(args.model), str(args.calib), str(frames)]
    taken = in_process([*command, "--frames", str(args.frames)], folder / "frames.log")
    if "failed" in taken:
        raise SystemExit(f"the frames could not be written: {taken['failed']}")
    found = []
    for job in jobs(args, folder, frames):
        print(f"{job.name} ...", file=sys.stderr, flush=True)
        command = [job.python, str(SCRIPTS / job.script), str(args.model), str(job.source), str(job.output)]
        result = in_process([*command, *job.setting], job.output.with_suffix(".log"))
        if result.get("frames_sha256", taken["frames_sha256"]) != taken["frames_sha256"]:
            raise SystemExit(f"{job.name} calibrated on other frames than the array holds")
        found.append((job, result))
    return found


class EveryNth:
    """Each n-th frame of a labelled folder."""

    def __init__(self, frames: Any, stride: int) -> None:
        self._frames, self._chosen = frames, range(0, len(frames), stride)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Any:
        return self._frames[self._chosen[index]]


class OpenVinoIr:
    """OpenVINO's own format, with those methods of a segmenter that ``evaluate`` uses."""

    backend = "openvino"

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        from fcn_deploy.runtimes.base import usable_cores
        from fcn_deploy.testing import openvino_model

        self.spec = spec
        self._compiled = openvino_model(path, threads=usable_cores())

    def infer(self, images: Any) -> Any:
        from fcn_deploy.runtimes.base import Segmentation

        return Segmentation(self._compiled({"image": images})["labels"], self.spec)


def score(model: Path, path: Path, data: Path, stride: int) -> dict[str, Any]:
    """Mean IU of one file, by the way it is run."""
    import onnx

    import fcn_deploy
    from fcn_deploy.data.folders import LabelledFolder
    from fcn_deploy.evaluation import evaluate
    from fcn_deploy.export.graph.files import write_model
    from fcn_deploy.runtimes.artefact import read_spec

    spec = read_spec(model)
    frames = EveryNth(LabelledFolder(data, spec.color_order), stride)
    if path.suffix == ".xml":
        found = evaluate(OpenVinoIr(path, spec), frames)
        return {"mean_iu": {"openvino": found.mean_iu}, "scored_frames": found.frames}
    if not path.name.startswith("ours") and path != model:
        # ModelOpt drops the description, NNCF keeps that of the fp32 file; load() reads and shows it.
        graph = onnx.load(path)
        half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.graph.initializer)
        write_model(graph, spec.replace(precision="int8+fp16" if half else "int8"), path)
    scores = {}
    for way, optimization in (("as written", "none"), ("optimised", "all")):
        with fcn_deploy.load(path, backend="onnxruntime", device="cpu", optimization=optimization) as one:
            found = evaluate(one, frames)
        scores[way] = found.mean_iu
    return {"mean_iu": scores, "scored_frames": found.frames}


def size_mb(path: Path) -> float:
    """With OpenVINO's weights, or ONNX's external data, that lie beside it."""
    files = [path, path.with_suffix(".bin"), *path.parent.glob(f"{path.stem}.*.data")]
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6


def show(rows: list[dict[str, Any]]) -> None:
    heads = (
        "as written",
        "optimised",
        "openvino",
        "seconds",
        "process s",
        "imports MB",
        "peak MB",
        "file MB",
    )
    print(f"{'':28}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        if "failed" in row:
            print(f"{row['name']:28}{row['failed']}")
            continue
        cells = [f"{row['mean_iu'][way]:.4f}" if way in row["mean_iu"] else "-" for way in heads[:3]]
        for key, digits in (("seconds", 1), ("process_seconds", 1), ("imported_mb", 0), ("peak_mb", 0)):
            cells.append(f"{row[key]:.{digits}f}" if key in row else "-")
        cells.append(f"{row['file_mb']:.1f}")
        print(f"{row['name']:28}" + "".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an fp32 .onnx of fcn-deploy export")
    parser.add_argument("--calib", type=Path, required=True, help="frames of one size to calibrate on")
    parser.add_argument("--data", type=Path, required=True, help="labelled frames to score on")
    parser.add_argument("--frames", type=int, default=32, help="calibration frames")
    parser.add_argument("--stride", type=int, default=1, help="score each n-th labelled frame")
    parser.add_argument("--modelopt", help="the interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--nncf", help="the interpreter that has nncf, openvino, onnx and onnxruntime")
    parser.add_argument("--keep", type=Path, help="a folder for the results and the logs of the tools")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        quantised = quantise_all(args, folder)
        rows = [{"name": "fp32", "file_mb": size_mb(args.model)}]
        rows[0] |= score(args.model, args.model, args.data, args.stride)
        for job, result in quantised:
            row = {"name": job.name, **result}
            if "failed" not in result:
                row |= score(args.model, job.output, args.data, args.stride)
                row["file_mb"] = size_mb(job.output)
            rows.append(row)
    show(rows)
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args), "rows": rows}, indent=1, default=str))
    if any("failed" in row for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
