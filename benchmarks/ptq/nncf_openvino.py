"""NNCF's post-training quantisation, measured, of the ONNX graph or of the same in OpenVINO.

    python nncf_openvino.py model.onnx frames.npy OUT onnx|openvino performance|mixed

Runs in an environment of its own: pip install nncf openvino onnx onnxruntime. NNCF 3.4 asks for neither
onnx nor onnxruntime, and its ONNX way cannot collect a range without both. OUT ends in .onnx for onnx,
in .xml for openvino. Dynamic sizes and uint8 frames need nothing special; NNCF quantises everything but
the ArgMax, also the score layers, and adds a Q/DQ pair directly behind the Cast of the input.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nncf
import numpy as np
from measure import report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("framework", choices=["onnx", "openvino"])
    parser.add_argument("preset", choices=["performance", "mixed"])
    args = parser.parse_args()

    def quantise() -> None:
        frames = np.load(args.frames)
        model, write = opened(args.framework, args.model)
        quantised = nncf.quantize(
            model,
            nncf.Dataset(frames, lambda frame: {"image": frame[None]}),
            preset=nncf.QuantizationPreset(args.preset),
            subset_size=len(frames),
        )
        write(quantised, args.output)

    names = {"onnx": ["onnx", "onnxruntime"], "openvino": ["openvino"]}[args.framework]
    report(quantise, ["nncf", *names, "numpy"])


def opened(framework: str, path: Path) -> tuple[Any, Any]:
    """The model in the framework, and a function that writes such a model."""
    if framework == "onnx":
        import onnx

        return onnx.load(path), onnx.save
    import openvino

    def write(model: Any, output: Path) -> None:
        openvino.save_model(model, output, compress_to_fp16=False)

    return openvino.Core().read_model(path), write


if __name__ == "__main__":
    main()
