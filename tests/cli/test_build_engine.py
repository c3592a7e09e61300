"""build-engine: from an ONNX file to an engine, in each precision, and calls that cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.data.street import SyntheticStreet
from fcn_deploy.export.tensorrt import engine, worker
from fcn_deploy.runtimes.artefact import identity
from fcn_deploy.runtimes.tensorrt.sidecar import check_engine

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("torch")

SMALL = ("--profile", "1x32x48:1x64x96:1x128x160")

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow fp32 network."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    shutil.copyfile(exported()[0], path)
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small frames."""
    folder = tmp_path_factory.mktemp("frames")
    for index, frame in enumerate(SyntheticStreet(frames=2, height=48, width=64)):
        Image.fromarray(frame.image).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def half(cli, model: Path) -> Path:
    """The same in fp16."""
    from fcn_deploy.export.graph.files import read_model, write_model
    from fcn_deploy.export.precision import to_fp16

    path = model.with_name("half.onnx")
    graph, spec = read_model(model)
    write_model(to_fp16(graph), spec.replace(precision="fp16"), path)
    return path


def test_an_engine_and_what_was_and_was_not_checked(cli, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.engine"
    targets = ("--compute-capability", "8.6", "--compute-capability", "12.0")
    result = cli("build-engine", model, *SMALL, *targets, "-o", output)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert f"Wrote {output}" in told
    assert "and model.engine.json" in told
    assert "runs on compute capability 8.6, 12.0" in told
    assert "profiles 1x32x48:1x64x96:1x128x160" in told
    assert "declared fp32: convolutions 18 fp32" in told
    assert "achieved not checked: no device" in told
    assert f"sha256 {check_engine(output).engine_sha256}" in told
    assert "note" not in told


def test_fp16_is_checked_and_made_of_an_fp32_file(cli, model: Path, frames: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.engine"
    result = cli("build-engine", model, "--fp16", "--calib", frames, *SMALL, "--json", "-o", output)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    sidecar = check_engine(output)
    assert report["sidecar"] == json.loads(sidecar.to_json())
    assert (report["bytes"], report["sha256"]) == (output.stat().st_size, sidecar.engine_sha256)
    assert sidecar.precision["declared"]["layers"] == {"fp16": 18}
    assert sidecar.spec.evidence["fp16_range"]["source"] == frames.name
    assert sidecar.spec.evidence["fp16_range"]["frames"] == 2
    assert "parity" not in sidecar.spec.evidence
    assert [link["name"] for link in sidecar.spec.provenance][:2] == ["model.fp16.onnx", "model.onnx"]
    assert sidecar.spec.provenance[1]["sha256"] == identity(model)


def test_int8_is_made_of_an_fp32_file(cli, model: Path, frames: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.engine"
    result = cli("build-engine", model, "--int8", "--calib", frames, *SMALL, "-o", output)
    assert result.exit_code == 0, result.output
    sidecar = check_engine(output)
    assert set(sidecar.precision["declared"]["layers"]) == {"fp16", "int8"}
    assert sidecar.spec.evidence["quantization"]["frames"] == 2
    assert "note TensorRT-RTX's support matrix does not list INT8" in " ".join(result.stdout.split())


def test_a_file_that_is_in_the_precision_already_is_taken_as_it_is(
    cli, half: Path, fails: Fails, frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "half.engine"
    assert cli("build-engine", half, "--fp16", *SMALL, "-o", output).exit_code == 0
    assert check_engine(output).spec.provenance[0]["sha256"] == identity(half)
    told = fails(2, "build-engine", half, "--fp16", "--calib", frames, "-o", output)
    assert "is fp16 already and is used as it is; leave out --calib" in told
    told = fails(1, "build-engine", half, "--int8", "-o", output)
    assert "was to be built as int8 and its graph says fp16" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fp16", "--int8"), "give --fp16 or --int8, one of the two"),
        (("--int8",), "so --int8 needs frames of your camera: --calib FOLDER"),
        (("--calib", "."), "--calib is for --int8 or --fp16"),
        (("--profile", "1x9x9:1x8x9:1x9x9"), "its height is 9 : 8 : 9, expected min <= opt <= max"),
        (("--compute-capability", "8.7"), "does not build for compute capability 8.7"),
        (("--timing-cache", "t.cache", "--flavor", "rtx"), "--timing-cache is for TensorRT"),
        (("--dla-core", "0", "--flavor", "rtx"), "--dla-core is for TensorRT"),
        (("--workspace", "0"), "Invalid value for '--workspace'"),
        (("--flavor", "xla"), "'xla' is not one of"),
        (("--optimization-level", "9"), "Invalid value for '--optimization-level'"),
    ],
)
def test_wrong_use_ends_with_2(cli, model: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    result = cli("build-engine", model, *words, "-o", tmp_path / "x.engine")
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be(fails: Fails, model: Path, tmp_path: Path) -> None:
    assert "must end in .engine" in fails(2, "build-engine", model, "-o", tmp_path / "x.plan")
    assert "create it first" in fails(2, "build-engine", model, "-o", tmp_path / "no" / "x.engine")
    assert "does not exist" in fails(2, "build-engine", tmp_path / "no.onnx", "-o", tmp_path / "x.engine")
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(model.read_bytes()[:1000])
    assert "not a complete ONNX file" in fails(2, "build-engine", torn, "-o", tmp_path / "x.engine")


def test_without_a_gpu_tensorrt_says_where_to_build(
    fails: Fails, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engine, "build_in_child", lambda request, reporter, _: worker.build(request, reporter)
    )
    monkeypatch.setattr(engine, "installed", lambda _: True)
    monkeypatch.setattr(worker, "import_tensorrt", lambda _: type("Module", (), {"__name__": "tensorrt"}))
    monkeypatch.setattr(worker, "gpu_problem", lambda: "the NVIDIA driver finds no GPU")
    told = fails(1, "build-engine", model, "--flavor", "tensorrt", "-o", tmp_path / "x.engine")
    assert "TensorRT builds on the GPU that it builds for" in told
    assert "--flavor rtx" in told
