"""Mean IU of one checkpoint on labelled frames: PyTorch fp32, ONNX Runtime fp32, fp16 simulated.

    python benchmarks/accuracy.py model.safetensors --data camvid/val [--json out.json]

fp16 rounds weights and the output of every layer in PyTorch and is a simulation: ONNX Runtime's CPU
provider computes fp16 graphs in fp32, so it cannot show what fp16 costs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import fcn_deploy
from fcn_deploy.datasets import LabelledFolder
from fcn_deploy.evaluate import evaluate
from fcn_deploy.export.onnx import export_onnx
from fcn_deploy.export.simulate import SimulatedFp16
from fcn_deploy.model.weights import describe, load_checkpoint, save_safetensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("weights", help="a checkpoint, or bundled")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variant")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    model, info = load_checkpoint(args.weights, variant=args.variant)
    spec = describe(model, info)
    data = LabelledFolder(args.data)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        graph, weights = Path(folder, "model.onnx"), Path(folder, "model.safetensors")
        export_onnx(model, spec, graph)
        save_safetensors(model, spec, weights)
        with fcn_deploy.load(weights) as torch32, fcn_deploy.load(graph) as ort32:
            for subject in (torch32, ort32, SimulatedFp16(model, spec)):
                found = evaluate(subject, data, artefact=str(args.weights))
                results.append(found.to_dict())
                by_class = " ".join(f"{name} {iu:.4f}" for name, iu in found.iu_by_class.items() if iu)
                print(f"{found.backend:24} mean IU {found.mean_iu:.4f} accuracy {found.pixel_accuracy:.4f}")
                print(f"{'':24} {by_class}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"results": results}, indent=1))


if __name__ == "__main__":
    main()
