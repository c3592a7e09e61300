"""``build_engine``: what is refused before the graph is converted, which takes minutes on a large network."""

from __future__ import annotations

from pathlib import Path

import pytest

import fcn_deploy
from fcn_deploy.errors import FcnDeployError

MODEL = Path(__file__).parent / "fixtures" / "v0_1" / "v01.onnx"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "x.txt"}, r"x\.txt: the name must end in \.engine"),
        ({"path": "none/x.engine"}, "does not exist; create it first"),
        ({"precision": "fp8"}, "precision must be fp16 or int8, not 'fp8'"),
        ({"flavor": "trt"}, "unknown flavor 'trt'"),
        ({"optimization_level": 9}, "optimization_level is from 0 to 5, not 9"),
        ({"timeout": -3}, "must be more than 0 seconds, not -3"),
        ({"workspace": 1.5}, "workspace must be a whole number"),
        ({"profiles": "1x64"}, "the profile 1x64 cannot be read"),
        ({"profiles": "1x64x9000"}, "9000"),
    ],
    ids=str,
)
def test_it_is_refused_before_the_conversion(
    changes: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object, **__: object) -> None:
        raise AssertionError("the graph is being converted")

    monkeypatch.setattr("fcn_deploy.export.fp16.convert_file_to_fp16", convert)
    path = tmp_path / str(changes.get("path", "x.engine"))
    call = {"precision": "fp16", **changes, "path": path}
    with pytest.raises(FcnDeployError, match=message):
        fcn_deploy.build_engine(MODEL, **call)
    assert list(tmp_path.iterdir()) == []


def test_a_tensorrt_that_is_not_installed_is_named_before_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.lazy.TENSORRT_MODULES", {"rtx": ("no_such_module",)})
    monkeypatch.setattr("fcn_deploy.export.tensorrt.engine.TENSORRT_MODULES", {"rtx": ("no_such_module",)})
    steps: list[str] = []
    with pytest.raises(FcnDeployError, match="is not installed; run: pip install"):
        fcn_deploy.build_engine(
            MODEL, tmp_path / "x.engine", precision="fp16", flavor="rtx", progress=steps.append
        )
    assert steps == []
