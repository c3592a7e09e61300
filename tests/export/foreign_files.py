"""Graphs as other tools export them, small and by hand: names, ranks, types, opsets and operators are theirs.

Each function writes a file and returns its path. Weights are seeded. ``answers`` runs such a file as its user
would: frames prepared by numpy, in a bare session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.testing import onnxruntime_session

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
"""How most training code prepares frames, R, G, B."""

CLASSES = 5


def weights(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """He-normal, so that activations neither vanish nor grow."""
    fan_in = int(np.prod(shape[1:])) or 1
    values = np.random.default_rng(seed).normal(0, np.sqrt(2 / fan_in), shape)
    return values.astype(np.float32)


class Graph:
    """Nodes and weights, one after another."""

    def __init__(self, constants: str = "initializer") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.constants = constants
        """``initializer``, or ``node`` as Paddle2ONNX and old PyTorch write them."""

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, name: str, kind: Any = np.float32) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, kind), name)
        if self.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.tensors.append(tensor)
        return name

    def integers(self, name: str, *values: int) -> str:
        return self.constant(values, name, np.int64)

    def conv(
        self, source: str, name: str, shape: Sequence[int], *, bias: bool = True, **attributes: Any
    ) -> str:
        """A convolution; weights ``[out, in, h, w]``, padding that keeps the size at stride 1."""
        seed = sum(map(ord, name))
        inputs = [source, self.constant(weights(*shape, seed=seed), f"{name}.weight")]
        if bias:
            inputs.append(self.constant(weights(shape[0], 1, seed=seed + 1)[:, 0] / 4, f"{name}.bias"))
        pad = attributes.get("dilations", [1])[0] * (shape[2] // 2)
        kernel = {"kernel_shape": list(shape[2:]), "pads": [pad] * 4}
        return self.add("Conv", inputs, name, **{**kernel, **attributes})

    def trunk(self, source: str, stride: int = 4) -> str:
        """Strided, depthwise and dilated convolutions: 8 channels, smaller by ``stride``."""
        x = self.conv(source, "stem", (8, 3, 3, 3), strides=[2, 2])
        x = self.add("Relu", [x], "stem.relu")
        if stride == 4:
            x = self.conv(x, "wide", (8, 1, 3, 3), group=8, strides=[2, 2])
            x = self.add("Relu", [x], "wide.relu")
        x = self.conv(x, "far", (8, 8, 3, 3), dilations=[2, 2])
        return self.add("Relu", [x], "far.relu")

    def resize_to(self, source: str, frame: str, mode: str) -> str:
        """To the frame's size, which is computed from its shape as PyTorch's and Paddle's exporters do."""
        self.add("Shape", [frame], "frame.shape")
        starts, ends, axes = self.integers("s2", 2), self.integers("e4", 4), self.integers("a0", 0)
        self.add("Slice", ["frame.shape", starts, ends, axes], "frame.hw")
        self.add("Shape", [source], "small.shape")
        self.add("Slice", ["small.shape", self.integers("s0", 0), self.integers("e2", 2), axes], "small.nc")
        self.add("Concat", ["small.nc", "frame.hw"], "sizes", axis=0)
        # In opset 11 these two may not be left out, and exporters write empty constants.
        unused = [self.constant([], name) for name in ("roi", "unused_scales")]
        return self.add(
            "Resize",
            [source, *unused, "sizes"],
            "resized",
            mode="linear",
            coordinate_transformation_mode=mode,
        )

    def save(
        self,
        path: Path,
        inputs: Mapping[str, tuple[int, Sequence[int | str]]],
        outputs: Mapping[str, tuple[int, Sequence[int | str]]],
        *,
        opset: int,
        ir: int,
        producer: str,
        metadata: Mapping[str, str] | None = None,
        functions: Sequence[onnx.FunctionProto] = (),
        domains: Sequence[str] = (),
    ) -> Path:
        made = [
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in ports.items()]
            for ports in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "main_graph", *made, self.tensors)
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=ir, producer_name=producer, functions=list(functions)
        )
        helper.set_model_props(model, dict(metadata or {}))
        onnx.save(model, str(path))
        return path


FRAMES = (TensorProto.FLOAT, ["batch", 3, "height", "width"])


def torchvision(path: Path) -> Path:
    """``torch.onnx.export`` of a mapping: ``out`` and ``aux``, logits of the frame's size; opset 17."""
    graph = Graph()
    features = graph.trunk("input")
    scores = graph.conv(features, "score", (CLASSES, 8, 1, 1))
    graph.resize_to(scores, "input", "pytorch_half_pixel")
    graph.nodes[-1].output[0] = "out"
    graph.conv(features, "aux", (CLASSES, 8, 1, 1))
    logits = (TensorProto.FLOAT, ["batch", CLASSES, "height", "width"])
    aux = (TensorProto.FLOAT, ["batch", CLASSES, "h", "w"])
    return graph.save(
        path, {"input": FRAMES}, {"aux": aux, "out": logits}, opset=17, ir=8, producer="pytorch"
    )


def mmdeploy(path: Path) -> Path:
    """mmdeploy's default: ``input``, ``output`` int64 ``[N, 1, H, W]`` of an ArgMax; opset 11, IR 6."""
    graph = Graph("node")
    features = graph.trunk("input")
    scores = graph.conv(features, "score", (CLASSES, 8, 1, 1))
    logits = graph.resize_to(scores, "input", "pytorch_half_pixel")
    graph.add("ArgMax", [logits], "output", axis=1, keepdims=1)
    labels = (TensorProto.INT64, ["batch", 1, "height", "width"])
    return graph.save(path, {"input": FRAMES}, {"output": labels}, opset=11, ir=6, producer="pytorch")


def mmdeploy_binary(path: Path) -> Path:
    """mmdeploy's network of one channel: float ``[N, 1, H, W]`` of zeros and ones."""
    graph = Graph()
    scores = graph.conv(graph.trunk("input"), "score", (1, 8, 1, 1))
    logits = graph.resize_to(scores, "input", "align_corners")
    graph.add("Sigmoid", [logits], "share")
    graph.add("Greater", ["share", graph.constant(0.3, "bound")], "above")
    graph.add("Cast", ["above"], "output", to=TensorProto.FLOAT)
    labels = (TensorProto.FLOAT, ["batch", 1, "height", "width"])
    return graph.save(path, {"input": FRAMES}, {"output": labels}, opset=11, ir=6, producer="pytorch")


def ultralytics(path: Path, height: int = 64, width: int = 96, classes: int = CLASSES) -> Path:
    """A YOLO semantic model: static ``images``, ``output0`` uint8 ``[1, H, W]`` of upsampled logits."""
    graph = Graph()
    scores = graph.conv(graph.trunk("images"), "score", (classes, 8, 1, 1))
    scales = graph.constant([1, 1, 4, 4], "scales")
    graph.add(
        "Resize",
        [scores, "", scales],
        "large",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    graph.add("ArgMax", ["large"], "map", axis=1, keepdims=0)
    graph.add("Cast", ["map"], "output0", to=TensorProto.UINT8)
    return graph.save(
        path,
        {"images": (TensorProto.FLOAT, [1, 3, height, width])},
        {"output0": (TensorProto.UINT8, [1, height, width])},
        opset=20,
        ir=9,
        producer="pytorch",
        metadata={"task": "semantic", "stride": "32"},
    )


def paddleseg(path: Path) -> Path:
    """PaddleSeg by Paddle2ONNX: ``x``, int32 ``[N, H, W]``, weights as Constant nodes, BatchNormalization."""
    graph = Graph("node")
    x = graph.conv("x", "stem", (8, 3, 3, 3), bias=False, strides=[2, 2])
    rng = np.random.default_rng(3)
    stats = [
        graph.constant(values, f"bn.{name}")
        for name, values in (
            ("scale", rng.uniform(0.5, 1.5, 8)),
            ("bias", rng.normal(0, 0.1, 8)),
            ("mean", rng.normal(0, 0.1, 8)),
            ("var", rng.uniform(0.5, 1.5, 8)),
        )
    ]
    x = graph.add("BatchNormalization", [x, *stats], "bn", epsilon=1e-5)
    x = graph.add("Relu", [x], "bn.relu")
    scores = graph.conv(x, "score", (CLASSES, 8, 1, 1))
    logits = graph.resize_to(scores, "x", "half_pixel")
    graph.add("ArgMax", [logits], "argmax_0.int64", axis=1, keepdims=0)
    graph.add("Cast", ["argmax_0.int64"], "argmax_0.tmp_0", to=TensorProto.INT32)
    dynamic = ["DynamicDimension.0", 3, "DynamicDimension.1", "DynamicDimension.2"]
    labels = ["DynamicDimension.0", "DynamicDimension.1", "DynamicDimension.2"]
    return graph.save(
        path,
        {"x": (TensorProto.FLOAT, dynamic)},
        {"argmax_0.tmp_0": (TensorProto.INT32, labels)},
        opset=11,
        ir=7,
        producer="PaddlePaddle",
    )


def smp(path: Path, classes: int = 1, *, opset: int = 17) -> Path:
    """A Unet: nearest upsampling, skips, one channel; takes multiples of 4 rows and columns only."""
    graph = Graph()
    x = graph.conv("input", "encoder1", (8, 3, 3, 3), strides=[2, 2])
    first = graph.add("Relu", [x], "encoder1.relu")
    x = graph.conv(first, "encoder2", (8, 8, 3, 3), strides=[2, 2])
    x = graph.add("Relu", [x], "encoder2.relu")
    for number, skip in (("1", first), ("2", None)):
        up = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        scales = graph.constant([1, 1, 2, 2], f"scales{number}")
        x = graph.add("Resize", [x, "", scales], f"up{number}", **up)
        if skip is not None:
            x = graph.add("Concat", [x, skip], f"cat{number}", axis=1)
            x = graph.conv(x, f"decoder{number}", (8, 16, 3, 3))
            x = graph.add("Relu", [x], f"decoder{number}.relu")
    graph.conv(x, "head", (classes, 8, 3, 3))
    graph.nodes[-1].output[0] = "output"
    logits = (TensorProto.FLOAT, ["batch", classes, "height", "width"])
    return graph.save(path, {"input": FRAMES}, {"output": logits}, opset=opset, ir=8, producer="pytorch")


def small_logits(path: Path) -> Path:
    """A decode head alone: logits at a quarter of the frame, as SegFormer and many heads give them."""
    graph = Graph()
    graph.conv(graph.trunk("pixel_values"), "score", (CLASSES, 8, 1, 1))
    graph.nodes[-1].output[0] = "logits"
    logits = (TensorProto.FLOAT, ["batch", CLASSES, "h", "w"])
    return graph.save(path, {"pixel_values": FRAMES}, {"logits": logits}, opset=18, ir=8, producer="pytorch")


def small_labels(path: Path) -> Path:
    """Labels at a quarter of the frame."""
    graph = Graph()
    scores = graph.conv(graph.trunk("input"), "score", (CLASSES, 8, 1, 1))
    graph.add("ArgMax", [scores], "labels", axis=1, keepdims=0)
    labels = (TensorProto.INT64, ["batch", "h", "w"])
    return graph.save(path, {"input": FRAMES}, {"labels": labels}, opset=18, ir=8, producer="pytorch")


def keras(path: Path) -> Path:
    """tf2onnx of a Keras model: ``[N, H, W, 3]`` in, softmax ``[N, H, W, classes]`` out; opset 13."""
    graph = Graph()
    graph.add("Transpose", ["input_1"], "model/conv/transpose", perm=[0, 3, 1, 2])
    x = graph.conv("model/conv/transpose", "model/conv", (8, 3, 3, 3))
    x = graph.add("Relu", [x], "model/relu")
    x = graph.conv(x, "model/score", (CLASSES, 8, 1, 1))
    graph.add("Transpose", [x], "model/back", perm=[0, 2, 3, 1])
    graph.add("Softmax", ["model/back"], "softmax", axis=3)
    return graph.save(
        path,
        {"input_1": (TensorProto.FLOAT, ["unk__6", "unk__7", "unk__8", 3])},
        {"softmax": (TensorProto.FLOAT, ["unk__6", "unk__7", "unk__8", CLASSES])},
        opset=13,
        ir=7,
        producer="tf2onnx",
    )


def as_fp16(source: Path, path: Path) -> Path:
    """All of a graph in float16, its input and output too, as converters for GPUs write it."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and "scales" not in tensor.name:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, str(path))
    return path


def answers(path: Path, frames: NDArray[np.uint8], output: str | None = None, **prepared: Any) -> Any:
    """What a file gives for uint8 ``[N, H, W, 3]`` frames in B, G, R, prepared as its user's code does it.

    Args:
        path: the file.
        frames: of the camera.
        output: its name; None takes the first.
        prepared: mean, std, scale, and ``trained_on``.
    """
    ordered = frames if prepared.get("trained_on") == "bgr" else frames[..., ::-1]
    values = ordered.astype(np.float32) * np.float32(prepared.get("scale") or 1)
    values = (values - np.float32(prepared["mean"])) / np.float32(prepared["std"])
    session = onnxruntime_session(path)
    port = session.get_inputs()[0]
    if port.shape[-1] != 3:
        values = values.transpose(0, 3, 1, 2)
    kind = np.float16 if port.type == "tensor(float16)" else np.float32
    found = session.run(None if output is None else [output], {port.name: np.ascontiguousarray(values, kind)})
    return found[0]
