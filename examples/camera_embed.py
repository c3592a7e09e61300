"""Start from here: python camera_embed.py model.onnx rtsp://camera/stream"""

from __future__ import annotations

import sys
from contextlib import suppress

import fcn_deploy
from fcn_deploy.camera import Delivery, Pipeline


def road_ahead(delivery: Delivery) -> None:
    """Yours: called with each frame and its labels, uint8 [H, W], while the next frame is inferred."""
    label = delivery.labels[-1, delivery.labels.shape[1] // 2]
    ahead = delivery.result.spec.classes[label]
    print(f"frame {delivery.frame.name}, {1e3 * delivery.age:.0f} ms old: {ahead} ahead")


artefact, source = sys.argv[1:]
with fcn_deploy.load(artefact) as segmenter:
    pipeline = Pipeline(source, segmenter, [road_ahead])
    with suppress(KeyboardInterrupt):  # Ctrl-C: frames in the model are delivered, the camera is closed
        pipeline.run()  # until the source ends, which a camera never does
    print(pipeline.statistics())
