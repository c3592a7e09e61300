"""The calibration frames that fcn-deploy uses, as one array for tools that cannot read our folders.

    python frames.py model.onnx CALIB frames.npy --frames 32

Runs in fcn-deploy's environment. The frames must have one size, as an array has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.runtimes.artefact import read_spec


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, required=True)
    args = parser.parse_args()
    frames = CalibrationFrames(args.calib, read_spec(args.model), args.frames)
    np.save(args.output, np.concatenate(list(frames)))
    assert frames.seen is not None, "set after a complete pass"
    print(json.dumps({"frames": frames.seen.frames, "frames_sha256": frames.seen.sha256}))


if __name__ == "__main__":
    main()
