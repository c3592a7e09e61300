"""What tests of engines share: narrow graphs in each precision, and builds without a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.calibration.quantization import quantize
from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.export.precision import to_fp16
from fcn_deploy.export.tensorrt import engine, worker
from fcn_deploy.export.tensorrt.request import BuildRequest, Built, Reporter

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
            quantize(source, path, calib=frames, method="minmax", rest=rest)
        return path

    return make


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds run in this process, where tests can put stand-ins in; request and result are JSON all the same."""

    def build(request: BuildRequest, reporter: Reporter, timeout: float | None) -> Built:
        built = worker.build(BuildRequest.from_json(request.to_json()), reporter)
        return Built.from_dict(json.loads(json.dumps(built.to_dict())))

    monkeypatch.setattr(engine, "build_in_child", build)
