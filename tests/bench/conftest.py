"""Tiny artefacts, and workers that misbehave on purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from fcn_deploy.bench import process
from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec

Plant = Callable[[str], None]
MakeOnnx = Callable[..., Path]

SPEC = ModelSpec(
    classes=("blue", "green", "red"), architecture=Architecture("fcn8s-lite", {"width": 2, "fc_channels": 4})
)


@pytest.fixture
def spec() -> ModelSpec:
    return SPEC


@pytest.fixture
def make_onnx(tmp_path: Path) -> MakeOnnx:
    """Writes a deploy graph that labels a pixel with its brightest channel."""

    def make(name: str = "tiny.onnx", **changes) -> Path:
        helper, types = onnx.helper, onnx.TensorProto
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["image"], ["wide"], to=types.FLOAT),
                helper.make_node("ArgMax", ["wide"], ["best"], axis=3, keepdims=0),
                helper.make_node("Cast", ["best"], ["float"], to=types.FLOAT),
                helper.make_node("Cast", ["float"], ["labels"], to=types.UINT8),
            ],
            "tiny",
            [helper.make_tensor_value_info("image", types.UINT8, ["batch", "height", "width", 3])],
            [helper.make_tensor_value_info("labels", types.UINT8, ["batch", "height", "width"])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        helper.set_model_props(model, {METADATA_KEY: SPEC.replace(**changes).to_json()})
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Puts a script in the place of the worker."""

    def put(code: str) -> None:
        script = tmp_path / "planted.py"
        script.write_text(code, encoding="utf-8")
        monkeypatch.setattr(process, "command", lambda module: (sys.executable, str(script)))

    return put
