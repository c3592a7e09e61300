"""fcn-deploy's own quantisation, measured: python ours.py model.onnx CALIB out.onnx TARGET --frames 32

Its time includes decoding the frames and the comparison with fp32 on the first of them, which the
other tools do not make.
"""

from __future__ import annotations

import argparse
from typing import Any

from measure import report

import fcn_deploy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("calib")
    parser.add_argument("output")
    parser.add_argument("target", choices=["tensorrt", "cpu"])
    parser.add_argument("--frames", type=int, required=True)
    args = parser.parse_args()

    def quantise() -> dict[str, Any]:
        result = fcn_deploy.quantize(
            args.model,
            args.output,
            calib=args.calib,
            target=args.target,
            method="entropy",
            max_frames=args.frames,
        )
        return {"frames_sha256": result.spec.evidence["quantization"]["frames_sha256"]}

    report(quantise, ["onnx", "numpy"])


if __name__ == "__main__":
    main()
