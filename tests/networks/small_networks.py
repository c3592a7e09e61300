"""Small deploy graphs with the parts of today's networks, written in ONNX directly: no exporter, no seconds.

Weights are seeded (He-normal), so activations stay in a usual range, and every graph gives CamVid's classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fcn_deploy.classes import CAMVID_CLASSES
from fcn_deploy.spec import Architecture, ModelSpec

MEAN_RGB, STD_RGB = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Graph:
    """Nodes one after another; each method adds some and returns the tensor that they make."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        if name not in {t.name for t in self.weights}:
            self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def prepared(self) -> str:
        x = self.node("Cast", ["image"], "float", to=onnx.TensorProto.FLOAT)
        x = self.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
        x = self.node("Sub", [x, self.constant("mean", np.reshape(MEAN_RGB, (3, 1, 1)))], "centred")
        return self.node("Div", [x, self.constant("std", np.reshape(STD_RGB, (3, 1, 1)))], "prepared")

    def conv(
        self, x: str, name: str, channels: tuple[int, int], *, kernel: int = 1, act: str = "", **options: int
    ) -> str:
        """``channels``: in and out. ``options``: ``stride``, ``dilation``, ``group``."""
        (read, made), group, dilation = channels, options.get("group", 1), options.get("dilation", 1)
        fan = read // group * kernel * kernel
        weight = self.rng.normal(0, (2 / fan) ** 0.5, (made, read // group, kernel, kernel))
        bias = self.rng.normal(0, 0.1, made)
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        self.node(
            *("Conv", inputs, name),
            kernel_shape=[kernel] * 2,
            strides=[options.get("stride", 1)] * 2,
            dilations=[dilation] * 2,
            pads=[kernel // 2 * dilation] * 4,
            group=group,
        )
        return self.node(act, [name], f"{name}.{act.lower()}") if act else name

    def resized(self, x: str, like: str, name: str) -> str:
        """Bilinear, to the height and width of another tensor; ``image`` has them in its middle."""
        ends = {"start": 1, "end": 3} if like == "image" else {"start": 2, "end": 4}
        side = self.node("Shape", [like], f"{name}.side", **ends)
        maps = self.node("Shape", [x], f"{name}.maps", start=0, end=2)
        sizes = self.node("Concat", [maps, side], f"{name}.sizes", axis=0)
        return self.node(
            *("Resize", [x, "", "", sizes], name),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def labels(self, scores: str) -> onnx.ModelProto:
        logits = self.resized(scores, "image", "upscored")
        x = self.node("ArgMax", [logits], "best", axis=1, keepdims=0)
        x = self.node("Cast", [x], "best.float", to=onnx.TensorProto.FLOAT)
        self.node("Cast", [x], "labels", to=onnx.TensorProto.UINT8)
        image = helper.make_tensor_value_info(
            "image", onnx.TensorProto.UINT8, ["batch", "height", "width", 3]
        )
        labels = helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, ["batch", "height", "width"])
        graph = helper.make_graph(self.nodes, "small", [image], [labels], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def mobile(seed: int = 0) -> onnx.ModelProto:
    """As lraspp_mobilenet_v3: depthwise, squeeze and excite, hard-swish, residual, two scores added up."""
    g = Graph(seed)
    first = g.conv(g.prepared(), "first", (3, 16), kernel=3, stride=2, act="HardSwish")
    x = g.conv(first, "depthwise", (16, 16), kernel=3, group=16, act="Relu")
    low = g.node("Add", [g.conv(x, "project", (16, 16)), first], "residual")
    x = g.conv(low, "expand", (16, 32), kernel=5, act="HardSwish")
    x = g.conv(x, "dilated", (32, 32), kernel=5, dilation=2, group=32, stride=2, act="HardSwish")
    pooled = g.node("GlobalAveragePool", [x], "pooled")
    gate = g.conv(g.conv(pooled, "squeeze", (32, 8), act="Relu"), "excite", (8, 32), act="HardSigmoid")
    x = g.conv(g.node("Mul", [gate, x], "scaled"), "last", (32, 24), act="Relu")
    high = g.conv(g.resized(x, low, "upscored.high"), "score_of_high", (24, 11))
    return g.labels(g.node("Add", [g.conv(low, "score_of_low", (16, 11)), high], "scores"))


def residual(seed: int = 0) -> onnx.ModelProto:
    """As deeplabv3_resnet: max pooling, residuals with and without a convolution, dilation, concatenation."""
    g = Graph(seed)
    x = g.conv(g.prepared(), "first", (3, 16), kernel=3, stride=2, act="Relu")
    x = g.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    main = g.conv(g.conv(x, "a.1", (16, 16), kernel=3, act="Relu"), "a.2", (16, 32))
    x = g.node("Relu", [g.node("Add", [main, g.conv(x, "a.shortcut", (16, 32))], "a.sum")], "a")
    main = g.conv(g.conv(x, "b.1", (32, 16), kernel=3, act="Relu"), "b.2", (16, 32))
    x = g.node("Relu", [g.node("Add", [main, x], "b.sum")], "b")
    mean = g.conv(g.node("GlobalAveragePool", [x], "pooled"), "context.pooled", (32, 8), act="Relu")
    branches = [
        g.conv(x, "context.1", (32, 8), act="Relu"),
        g.conv(x, "context.2", (32, 8), kernel=3, dilation=4, act="Relu"),
        g.resized(mean, x, "context.spread"),
    ]
    x = g.conv(g.node("Concat", branches, "context", axis=1), "mix", (24, 16), act="Relu")
    return g.labels(g.conv(x, "classify", (16, 11)))


def unet(seed: int = 0) -> onnx.ModelProto:
    """As an smp Unet: a skip past the pooling, nearest upsampling, concatenation."""
    g = Graph(seed)
    skip = g.conv(g.prepared(), "down", (3, 16), kernel=3, act="Relu")
    x = g.node("MaxPool", [skip], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = g.conv(x, "middle", (16, 24), kernel=3, act="Relu")
    twice = g.constant("twice", [1, 1, 2, 2])
    x = g.node("Resize", [x, "", twice], "up", mode="nearest", coordinate_transformation_mode="asymmetric")
    x = g.conv(g.node("Concat", [x, skip], "both", axis=1), "join", (40, 16), kernel=3, act="Relu")
    return g.labels(g.conv(x, "head", (16, 11), kernel=3))


NETWORKS: dict[str, Callable[..., onnx.ModelProto]] = {"mobile": mobile, "residual": residual, "unet": unet}


def spec_of(name: str, **fields: Any) -> ModelSpec:
    return ModelSpec(
        classes=CAMVID_CLASSES,  # what the labelled street clip has
        architecture=Architecture(name),
        color_order="rgb",
        mean=MEAN_RGB[::-1],
        std=STD_RGB[::-1],
        ignore_label=11,
        size_multiple=2 if name == "unet" else 1,
        **fields,
    )
