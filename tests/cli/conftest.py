"""The command line called in this process, and artefacts small enough to be called often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner, Result

from fcn_deploy.cli.main import app
from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec

Cli = Callable[..., Result]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """``cli("run", path, "--json")``; a Result with exit_code, stdout and stderr."""
    runner = CliRunner()

    def call(*words: object) -> Result:
        return runner.invoke(app, [str(word) for word in words], prog_name="fcn-deploy")

    return call


@pytest.fixture(scope="session")
def fails(cli: Cli) -> Callable[..., str]:
    """``fails(2, "run", ...)``: the one sentence on stderr of a call that must end with this code."""

    def call(code: int, *words: object) -> str:
        result = cli(*words)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        lines = result.stderr.strip().splitlines()
        assert lines[-1].startswith("Error: ")
        return lines[-1].removeprefix("Error: ")

    return call


def brightest(outputs: tuple[str, ...], **fields: object) -> onnx.ModelProto:
    """A deploy graph without weights: a pixel's label is its brightest channel (0 blue, 1, 2 red)."""
    frame = ["batch", "height", "width"]
    kinds = {"labels": TensorProto.UINT8, "confidence": TensorProto.FLOAT}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("ArgMax", ["planes"], ["winner"], axis=1, keepdims=0),
            helper.make_node("Cast", ["winner"], ["labels"], to=TensorProto.UINT8),
            helper.make_node("ReduceMax", ["planes", "axis"], ["largest"], keepdims=0),
            helper.make_node("Div", ["largest", "white"], ["confidence"]),
        ],
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*frame, 3])],
        [helper.make_tensor_value_info(name, kinds[name], frame) for name in outputs],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.array(255, np.float32), "white"),
        ],
    )
    spec = ModelSpec(
        classes=("blue", "green", "red"),
        palette=((0, 0, 255), (0, 255, 0), (255, 0, 0)),
        architecture=Architecture("fcn8s-lite"),
        outputs=outputs,
        note="a test's graph",
        **fields,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    return model


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX artefact that answers labels."""
    path = tmp_path_factory.mktemp("artefact") / "brightest.onnx"
    onnx.save(brightest(("labels",)), str(path))
    return path


@pytest.fixture(scope="session")
def sure_artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX artefact that answers labels and confidence."""
    path = tmp_path_factory.mktemp("artefact") / "sure.onnx"
    onnx.save(brightest(("labels", "confidence")), str(path))
    return path


def striped(height: int = 24, width: int = 33, *, shift: int = 0) -> np.ndarray:
    """An RGB picture of three stripes: red, green, blue; and shifted in turn."""
    picture = np.zeros((height, width, 3), np.uint8)
    for channel in range(3):
        picture[:, channel * width // 3 : (channel + 1) * width // 3, (channel + shift) % 3] = 200
    return picture


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """One PNG."""
    path = tmp_path / "photo.png"
    Image.fromarray(striped()).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three PNGs, one of them in a folder of its own and of another size."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(striped()).save(folder / "a.png")
    Image.fromarray(striped(shift=1)).save(folder / "b.png")
    Image.fromarray(striped(31, 20)).save(folder / "more" / "c.png")
    return folder


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """images/ and labels/ that the artefact answers without a mistake: red 2, green 1, blue 0."""
    for name, shift in (("a", 0), ("b", 1)):
        picture = striped(shift=shift)
        for part, pixels in (("images", picture), ("labels", 2 - picture.argmax(2).astype(np.uint8))):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / part / f"{name}.png")
    return tmp_path / "data"


@pytest.fixture
def leftovers(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of temporary files that were left anywhere below the test's folder."""
    return lambda: [path.name for path in tmp_path.rglob(".*")]
