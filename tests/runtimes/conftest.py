"""A deploy graph of a few operators, whose answer numpy can work out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]], np.float32)
"""Labels 0 to 2: the brightest channel. Small whole numbers, so every sum is exact."""
BIAS = np.array([0, 0, 0, 90], np.float32)
"""Label 3: dark pixels."""
KINDS = {"labels": TensorProto.UINT8, "confidence": TensorProto.FLOAT, "logits": TensorProto.FLOAT}
AXES = {"logits": ["batch", len(WEIGHTS), "height", "width"]}


class Build:
    """What tests make artefacts and frames with."""

    spec = ModelSpec(
        classes=("blue", "green", "red", "dark"),
        architecture=Architecture("fcn8s-lite"),
        max_height=64,
        max_width=80,
    )

    @staticmethod
    def frames(*shape: int, seed: int = 0) -> np.ndarray:
        """Random uint8 frames, ``shape`` without the channels."""
        return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)

    @staticmethod
    def logits(frames: np.ndarray) -> np.ndarray:
        return np.moveaxis(frames.astype(np.float32) @ WEIGHTS.T + BIAS, -1, 1)

    @classmethod
    def labels(cls, frames: np.ndarray) -> np.ndarray:
        """What the tiny model answers for ``[N, H, W, 3]``."""
        return cls.logits(frames).argmax(1)

    @staticmethod
    def graph(outputs: tuple[str, ...] = ("labels",), image: str = "image") -> onnx.ModelProto:
        """uint8 NHWC frames -> Cast, Transpose, Conv, ArgMax, Cast; a Softmax for the confidence."""
        nodes = [
            helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["nchw", "weight", "bias"], ["logits"]),
            helper.make_node("ArgMax", ["logits"], ["winner"], axis=1, keepdims=0),
            helper.make_node("Cast", ["winner"], ["labels"], to=TensorProto.UINT8),
            helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
            helper.make_node("ReduceMax", ["probability", "axis"], ["confidence"], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(image, TensorProto.UINT8, ["batch", "height", "width", 3])],
            [
                helper.make_tensor_value_info(name, KINDS[name], AXES.get(name, ["batch", "height", "width"]))
                for name in outputs
            ],
            [
                numpy_helper.from_array(WEIGHTS.reshape(-1, 3, 1, 1), "weight"),
                numpy_helper.from_array(BIAS, "bias"),
                numpy_helper.from_array(np.array([1], np.int64), "axis"),
            ],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    @classmethod
    def describe(cls, model: onnx.ModelProto, spec: ModelSpec | None = None) -> onnx.ModelProto:
        """The same model with a description in its metadata."""
        helper.set_model_props(model, {"author": "a test", METADATA_KEY: (spec or cls.spec).to_json()})
        return model

    @staticmethod
    def keep_outside(tensor: onnx.TensorProto, location: str) -> bytes:
        """Turn a tensor into one whose bytes are said to lie at ``location``; returns the bytes."""
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": str(len(data))}.items():
            tensor.external_data.add(key=key, value=value)
        return data

    @classmethod
    def external(cls, path: Path, location: str) -> bytes:
        """Write a model whose first weights are said to lie at ``location``; returns their bytes."""
        model = cls.describe(cls.graph())
        weights = cls.keep_outside(model.graph.initializer[0], location)
        path.write_bytes(model.SerializeToString())
        return weights

    @classmethod
    def onnx_file(cls, path: Path, spec: ModelSpec | None = None) -> Path:
        """Write a complete artefact."""
        spec = spec or cls.spec
        path.write_bytes(cls.describe(cls.graph(spec.outputs), spec).SerializeToString())
        return path


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete ONNX artefact."""
    return Build.onnx_file(tmp_path_factory.mktemp("artefacts") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that answers confidence and logits as well."""
    spec = Build.spec.replace(outputs=("labels", "confidence", "logits"))
    return Build.onnx_file(tmp_path_factory.mktemp("artefacts") / "outputs.onnx", spec)


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PyTorch artefact: an fcn8s-lite of a few channels."""
    pytest.importorskip("torch")
    from fcn_deploy.model.checkpoints.native import save_safetensors
    from fcn_deploy.model.checkpoints.random import random_model

    model, _ = random_model(5, "fcn8s-lite", width=2, fc_channels=8, seed=3)
    spec = ModelSpec(
        classes=tuple("abcde"), architecture=Architecture("fcn8s-lite", {"width": 2, "fc_channels": 8})
    )
    path = tmp_path_factory.mktemp("artefacts") / "lite.safetensors"
    save_safetensors(model, spec, path)
    return path
