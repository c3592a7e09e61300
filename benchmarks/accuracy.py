"""Mean IU of one checkpoint on labelled frames in every precision, side by side.

    python benchmarks/accuracy.py model.safetensors --data camvid/val --calib camvid/train [--json out.json]

PyTorch fp32, ONNX Runtime fp32, fp16, and INT8 for both targets by each calibration method. fp16 is
simulated (tensors really rounded, overflow kept), because a CPU computes fp16 graphs in fp32; INT8 for
TensorRT runs in ONNX Runtime, which gives the same integers and not the same kernels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import fcn_deploy
from fcn_deploy.calibration.ranges import METHODS
from fcn_deploy.classes import ClassSet
from fcn_deploy.classes.reading import named_classes
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.model.checkpoints.describe import describe
from fcn_deploy.model.checkpoints.layouts import load_checkpoint
from fcn_deploy.model.checkpoints.native import save_safetensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("weights", help="a checkpoint, or bundled")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calib", type=Path, help="frames for INT8; without it INT8 is left out")
    parser.add_argument("--variant")
    parser.add_argument("--classes", help="a file with class names, camvid or voc")
    parser.add_argument("--frames", type=int, default=64, help="calibration frames")
    parser.add_argument("--torch", action="store_true", help="PyTorch too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    model, info = load_checkpoint(args.weights, variant=args.variant)
    stated = named_classes(args.classes) if args.classes else ClassSet(())
    spec = describe(
        model, info, classes=stated.names or None, palette=stated.palette, ignore_label=stated.ignore_label
    )
    results = []

    def score(path: Path, name: str, simulate_fp16: bool = False) -> None:
        began = time.perf_counter()
        found = replace(fcn_deploy.evaluate(path, args.data, simulate_fp16=simulate_fp16), artefact=name)
        show(found, (time.perf_counter() - began) / max(found.frames, 1))
        results.append(found.to_dict())

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        graph, half = folder / "fp32.onnx", folder / "fp16.onnx"
        export_onnx(model, spec, graph)
        if args.torch:
            save_safetensors(model, spec, folder / "model.safetensors")
            score(folder / "model.safetensors", "fp32, PyTorch")
        score(graph, "fp32")
        export_onnx(model, spec, half, precision="fp16")
        score(half, "fp16 simulated", simulate_fp16=True)
        if args.calib:
            table = folder / "table.json"
            source: dict[str, object] = {"calib": args.calib, "max_frames": args.frames, "save_table": table}
            for target in ("tensorrt", "cpu"):
                for method in METHODS:
                    quantised = folder / f"{target}.onnx"
                    fcn_deploy.quantize(
                        graph, quantised, target=target, method=method, float_precision="fp32", **source
                    )
                    source = {"table": table}
                    score(quantised, f"int8 {target} {method}")
            both = folder / "both.onnx"
            fcn_deploy.quantize(graph, both, target="tensorrt", method="entropy", table=table)
            score(both, "int8+fp16 entropy, fp16 simulated", simulate_fp16=True)
    if args.json:
        args.json.write_text(json.dumps({"results": results}, indent=1))


def show(found: fcn_deploy.Evaluation, seconds: float) -> None:
    by_class = " ".join(f"{name} {iu:.4f}" for name, iu in found.iu_by_class.items() if iu is not None)
    figures = f"mean IU {found.mean_iu:.4f} accuracy {found.pixel_accuracy:.4f} {seconds * 1e3:5.0f} ms"
    print(f"{found.artefact:34} {figures}\n{'':8}{by_class}", flush=True)


if __name__ == "__main__":
    main()
