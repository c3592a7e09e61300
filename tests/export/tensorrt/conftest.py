"""What tests of engines share: narrow graphs in each precision, and builds without a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.calibration.quantization import quantize
from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.export.precision import to_fp16
from fcn_deploy.export.tensorrt import engine, worker
from fcn_deploy.export.tensorrt.request import BuildRequest, Built, Reporter
from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec

InPrecision = Callable[..., Path]


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small frames of the synthetic street."""
    from PIL import Image

    from fcn_deploy.data.street import SyntheticStreet

    folder = tmp_path_factory.mktemp("frames")
    for index, frame in enumerate(SyntheticStreet(frames=2, height=48, width=64)):
        Image.fromarray(frame.image).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def graph(exported, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> InPrecision:
    """``graph(variant, precision)``: a narrow ONNX file."""
    folder = tmp_path_factory.mktemp("precisions")

    def make(variant: str = "fcn8s-lite", precision: str = "fp32", learned: bool = False) -> Path:
        source: Path = exported(variant, learned)[0]
        path = folder / f"{source.stem}.{precision}.onnx"
        if precision == "fp32":
            return source
        if path.exists():
            return path
        if precision == "fp16":
            model, spec = read_model(source)
            write_model(to_fp16(model), spec.replace(precision="fp16"), path)
        else:
            rest = "fp16" if precision == "int8+fp16" else "fp32"
            quantize(source, path, calib=frames, method="minmax", float_precision=rest)
        return path

    return make


def small_graph(image: str = "image", odd: str | None = None) -> onnx.ModelProto:
    """A deploy graph of a few operators, or one that breaks its promise."""
    last = "float"
    nodes = [helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT)]
    if odd is not None:
        nodes.append(helper.make_node(odd, ["float"], ["odd"], name="odd"))
        nodes.append(helper.make_node("Add", ["float", "odd"], ["sum"], name="sum"))
        last = "sum"
    nodes += [
        helper.make_node("Transpose", [last], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["winner"], axis=1, keepdims=0),
        helper.make_node("Cast", ["winner"], ["labels"], to=TensorProto.UINT8),
    ]
    axes = ["n", "h", "w"]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(image, TensorProto.UINT8, [*axes, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, axes)],
        [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "weight")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    spec = ModelSpec(classes=("a", "b"), architecture=Architecture("fcn8s-lite"))
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    return model


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``small(name, image=..., odd=...)``: the file of a deploy graph of a few operators."""
    folder = tmp_path_factory.mktemp("small")

    def write(name: str = "small.onnx", **changes: str) -> Path:
        path = folder / name
        path.write_bytes(small_graph(**changes).SerializeToString())
        return path

    return write


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds run in this process, where tests can put stand-ins in; request and result are still JSON."""

    def build(request: BuildRequest, reporter: Reporter, timeout: float | None) -> Built:
        built = worker.build(BuildRequest.from_json(request.to_json()), reporter)
        return Built.from_dict(json.loads(json.dumps(built.to_dict())))

    monkeypatch.setattr(engine, "build_in_child", build)
    monkeypatch.setattr(engine, "installed", lambda _: True)  # stand-ins are not
