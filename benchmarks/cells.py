"""What labels by cell gain over the comparison of every class at every pixel.

    python benchmarks/cells.py model.onnx [--size 360x480] [--rounds 40]

Takes an fp32 .onnx, extracts the graph from its scores to the labels, and times it as it is and by cell, in
ONNX Runtime and OpenVINO, on scores with large regions, on noise, where nearly every cell has to be
compared, and on one class. The two take turns; medians in milliseconds. Labels differ only where two
classes have nearly equal scores; the share of equal labels is printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from fcn_deploy.export.graph.cells import label_by_cell
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.graph.surgery import find_node
from fcn_deploy.runtimes.base import usable_cores
from fcn_deploy.testing import onnxruntime_session, openvino_model

Run = Callable[[dict[str, NDArray[np.generic]]], NDArray[np.uint8]]


def end_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """From the scores that the last resize reads to the labels; the scores are the input ``scores``."""
    resized = find_node(model, "ArgMax").input[0]
    resize = next(node for node in model.graph.node if resized in node.output)
    resize.input[0] = "scores"
    shape = ["batch", "classes", "h", "w"]
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, shape)
    model.graph.value_info.append(scores)
    return onnx.utils.Extractor(model).extract_model(["scores", "image"], ["labels"])


def in_onnxruntime(model: onnx.ModelProto) -> Run:
    session = onnxruntime_session(model, threads=usable_cores())
    return lambda given: session.run(["labels"], given)[0]


def in_openvino(model: onnx.ModelProto) -> Run:
    request = openvino_model(model, threads=usable_cores()).create_infer_request()
    return lambda given: request.infer(given)["labels"].copy()


def scores_of(shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=shape).astype(np.float32)
    coarse = rng.normal(size=(*shape[:2], shape[2] // 7 + 1, shape[3] // 7 + 1))
    regions = coarse.repeat(7, 2).repeat(7, 3)[:, :, : shape[2], : shape[3]].astype(np.float32)
    one = noise.copy()
    one[:, 0] += 20
    return {"large regions": regions + noise / 20, "noise": noise, "one class": one}


def in_turns(ways: list[Run], given: dict[str, NDArray[np.generic]], rounds: int) -> list[float]:
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(-5, rounds):
        for way, found in zip(ways, times, strict=True):
            began = time.perf_counter()
            way(given)
            if turn >= 0:
                found.append(1e3 * (time.perf_counter() - began))
    return [statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    model, spec = read_model(args.model)
    dense = end_of(model)
    by_cell = copy.deepcopy(dense)
    if not label_by_cell(by_cell):
        raise SystemExit(f"{args.model}: labels are not its only output, or its upscore is learned")
    image = np.zeros((1, height, width, 3), np.uint8)
    # Enough for any variant: those that pad look at up to three scores more than the frame has.
    shape = (1, spec.num_classes, -(-height // 8) + 3, -(-width // 8) + 3)
    for called, make in (("ONNX Runtime", in_onnxruntime), ("OpenVINO", in_openvino)):
        ways = [make(dense), make(by_cell)]
        for name, scores in scores_of(shape).items():
            given = {"image": image, "scores": scores}
            every, cells = in_turns(ways, given, args.rounds)
            equal = float((ways[0](given) == ways[1](given)).mean())
            print(
                f"{spec.num_classes} classes, {name}, {called}: every pixel {every:.2f} ms, "
                f"by cell {cells:.2f} ms, {equal:.5%} of labels equal"
            )


if __name__ == "__main__":
    main()
