"""NVIDIA ModelOpt's ONNX PTQ, measured: python modelopt_onnx.py model.onnx frames.npy out.onnx METHOD

Runs in an environment of its own: pip install 'nvidia-modelopt[onnx]' (it pins onnx and onnxruntime-gpu,
and brings torch). What the deploy graph needs of the call, found with 0.47:

- The model must be a copy. ModelOpt writes the shapes that it infers into the file it is given, so the
  user's own file would change.
- uint8 frames [N, H, W, 3] are taken as they are: one frame is fed at a time, because an unknown batch
  axis counts as 1, and the other sizes are not compared with the graph's. The frames must share one size.
- calibration_eps is the CPU alone. By default it tries CUDA and TensorRT as well, and warns about
  what is missing before it uses the CPU.
- Everything else is its default: convolutions (the score layers as well), pooling, additions and
  resizing in INT8, the rest fp16. The weights stay fp16 behind a QuantizeLinear, for TensorRT to fold.
- The file it writes has lost the metadata, and so our description; compare_ptq.py writes it back.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from measure import report
from modelopt.onnx.quantization import quantize


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("method", choices=["entropy", "max"])
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(args.model, folder))

        def quantise() -> None:
            quantize(
                str(copy),
                quantize_mode="int8",
                calibration_method=args.method,
                calibration_data=np.load(args.frames),
                calibration_eps=["cpu"],
                output_path=str(args.output.resolve()),
                log_level="WARNING",
            )

        report(quantise, ["nvidia-modelopt", "onnx", "onnxruntime-gpu", "torch", "numpy"])


if __name__ == "__main__":
    main()
