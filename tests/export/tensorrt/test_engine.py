"""Engines of the real TensorRT-RTX builder, which needs no GPU: built, declared, written, refused."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from fcn_deploy.building import build_engine
from fcn_deploy.calibration.quantization import quantize
from fcn_deploy.errors import BackendUnavailable, EngineError, FcnDeployError, ModelError, UsageError
from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.export.precision import to_fp16
from fcn_deploy.export.tensorrt import builder, engine, request, worker
from fcn_deploy.export.tensorrt.builder import BuildSettings
from fcn_deploy.export.tensorrt.description import RTX_PORTABLE
from fcn_deploy.export.tensorrt.engine import build_from_graph
from fcn_deploy.files import sha256_of
from fcn_deploy.model.fcn8s import VARIANTS
from fcn_deploy.runtimes.artefact import identity
from fcn_deploy.runtimes.cuda.gpus import Gpu
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.runtimes.tensorrt.sidecar import (
    NOT_CHECKED,
    TENSORRT,
    TENSORRT_RTX,
    Host,
    Sidecar,
    check_engine,
    check_host,
    read_sidecar,
)

trt = pytest.importorskip("tensorrt_rtx")

SMALL = "1x32x48:1x64x96:2x128x160"

InPrecision = Callable[..., Path]
SmallGraph = Callable[..., Path]


def build(source: Path, output: Path, **arguments: object) -> Sidecar:
    """An engine's sidecar."""
    return build_engine(source, output, **arguments).sidecar


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8+fp16", "int8"])
@pytest.mark.parametrize(
    ("variant", "learned"), [(v, False) for v in VARIANTS] + [("fcn8s-same", True)], ids=str
)
def test_every_variant_builds_in_every_precision(
    graph: InPrecision, tmp_path: Path, variant: str, learned: bool, precision: str
) -> None:
    source = graph(variant, precision, learned)
    output = tmp_path / "x.engine"
    sidecar = build(source, output, profiles=[SMALL], compute_capabilities=["8.6"], flavor="rtx")
    assert sidecar == read_sidecar(output) == check_engine(output)
    assert sidecar.spec.precision == precision
    layers = sidecar.precision["declared"]["layers"]
    assert sum(layers.values()) >= 18
    assert set(layers) == {"fp32": {"fp32"}, "fp16": {"fp16"}, "int8": {"int8", "fp32"}}.get(
        precision, {"int8", "fp16"}
    )
    assert sidecar.precision["achieved"] == NOT_CHECKED
    assert sidecar.spec.provenance[0] == {"kind": "onnx", "name": source.name, "sha256": identity(source)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_full_width_builds_and_its_weights_shrink(tmp_path: Path, variant: str, precision: str) -> None:
    from fcn_deploy.export.onnx import trace
    from fcn_deploy.model.checkpoints.describe import describe
    from fcn_deploy.model.checkpoints.random import random_model
    from fcn_deploy.model.deploy import DeployModel

    model, info = random_model(21, variant)
    spec = describe(model, info)
    made = trace(DeployModel(model, spec))
    source = tmp_path / "full.onnx"
    write_model(to_fp16(made) if precision == "fp16" else made, spec.replace(precision=precision), source)
    sidecar = build(source, tmp_path / "full.engine", flavor="rtx", compute_capabilities=["8.6"])
    share = 1.0 if precision == "fp32" else 0.5
    assert sidecar.precision["declared"]["engine_to_fp32_weights"] == pytest.approx(share, abs=0.1)


def test_the_sidecar_says_what_was_built(graph: InPrecision, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    steps: list[str] = []
    sidecar = build(
        graph(),
        output,
        profiles=[SMALL, "1x200x300"],
        compute_capabilities=["8.9", "12.0", "8.9"],
        flavor="rtx",
        progress=steps.append,
    )
    assert sidecar.engine_sha256 == sha256_of(output)
    assert sidecar.engine_bytes == output.stat().st_size
    assert (sidecar.flavor, sidecar.version) == (TENSORRT_RTX, trt.__version__)
    assert sidecar.target.compute_capabilities == ("8.9", "12.0")
    assert not sidecar.target.later
    assert [str(p) for p in sidecar.profiles] == [SMALL, "1x200x300:1x200x300:1x200x300"]
    assert sidecar.build["memory"]["profile"] in map(str, sidecar.profiles)
    assert sidecar.build["log"] == {"warnings": 0, "errors": 0, "first_warnings": []}
    assert sidecar.build["seconds"] > 0
    assert any(step.startswith("building: ") and "%" in step for step in steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.engine", "x.engine.json"]


def test_the_result_is_short_to_read_and_whole_as_json(small: SmallGraph, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    result = build_engine(small(), output, profiles=["1x8x8"], compute_capabilities=["8.9"], flavor="rtx")
    size = output.stat().st_size
    shown = dict(result.summary())
    assert shown["file"].startswith(f"{output} ({size / 1e6:.1f} MB, ")
    assert shown["built by"] == f"TensorRT-RTX {trt.__version__}"
    assert shown["runs on"] == "compute capability 8.9"
    assert repr(result).splitlines()[0] == "EngineResult"
    assert result.to_dict() == {
        "file": str(output),
        "bytes": size,
        "sha256": sha256_of(output),
        "seconds": round(result.seconds, 2),
        "sidecar": json.loads((tmp_path / "x.engine.json").read_text()),
    }
    assert result.seconds > result.sidecar.build["seconds"] - 0.01 > -0.01, "which is rounded"


def test_without_a_target_it_is_built_for_ampere_and_later(graph: InPrecision, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    sidecar = build(graph(), output, profiles=[SMALL], flavor="rtx")
    assert sidecar.target.later
    assert sidecar.target.compute_capabilities == RTX_PORTABLE
    with pytest.raises(EngineError, match=r"this GPU has 7\.5"):
        check_host(output, sidecar, Host(sidecar.flavor, sidecar.version, "7.5"))


def test_the_default_profile_takes_all_that_the_model_does(graph: InPrecision, tmp_path: Path) -> None:
    model, spec = read_model(graph())
    source = tmp_path / "small.onnx"
    write_model(model, spec.replace(max_height=200, max_width=5000), source)
    sidecar = build(source, tmp_path / "x.engine", flavor="rtx")
    assert [str(p) for p in sidecar.profiles] == ["1x1x1:1x200x480:1x200x1920"]


def test_weights_beside_the_model_are_found(graph: InPrecision, tmp_path: Path) -> None:
    model = onnx.load(str(graph()))
    source = tmp_path / "apart" / "model.onnx"
    source.parent.mkdir()
    onnx.save(model, str(source), save_as_external_data=True, location="weights.data", size_threshold=100)
    sidecar = build(source, tmp_path / "x.engine", profiles=[SMALL], flavor="rtx")
    inside = build(graph(), tmp_path / "y.engine", profiles=[SMALL], flavor="rtx")
    assert sidecar.precision["declared"] == inside.precision["declared"]
    (source.parent / "weights.data").unlink()
    with pytest.raises(ModelError, match=r"'weights\.data' is missing"):
        build_engine(source, tmp_path / "x.engine", profiles=[SMALL], flavor="rtx")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"profiles": ["1x64x64:1x32x64:1x64x64"]}, "its height is 64 : 32 : 64, expected min <= opt <= max"),
        ({"profiles": ["1x64"]}, "expected batch x height x width"),
        ({"profiles": ["1x64x64:1x64x64"]}, "has 2 sizes"),
        ({"profiles": ["1x0x64"]}, "the profile 1x0x64 cannot be read"),
        ({"profiles": ["1x5000x64"]}, "larger than this model's limit of 4096x4096"),
        ({"profiles": ["1x64x64", "1x64x64"]}, "two profiles are the same"),
        ({"compute_capabilities": ["8.7"]}, "does not build for compute capability 8.7, only for 7.5, 8.0"),
        ({"compute_capabilities": ["banana"]}, "does not build for compute capability banana"),
        ({"flavor": "xla"}, "choose from auto, tensorrt, rtx"),
        ({"optimization_level": 6}, "from 0 to 5, not 6"),
        ({"workspace": 0}, "workspace must be a whole number of at least 1"),
        ({"dla_core": -1}, "dla_core must be a whole number of at least 0"),
        ({"timeout": 0}, "the timeout must be more than 0 seconds, not 0"),
        ({"timing_cache": "t.cache"}, "--timing-cache is for TensorRT"),
        ({"hardware_compatible": True}, "--hardware-compatible is for TensorRT"),
        ({"version_compatible": True}, "--version-compatible is for TensorRT"),
        ({"dla_core": 0}, "--dla-core is for TensorRT"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_use_is_told_before_the_build(
    graph: InPrecision, tmp_path: Path, change: dict, told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build_engine(graph(), tmp_path / "x.engine", **{"flavor": "rtx", "progress": pytest.fail, **change})
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_name_must_end_in_engine(graph: InPrecision, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.plan: the name must end in \.engine"):
        build_engine(graph(), tmp_path / "x.plan")


def test_a_folder_that_does_not_exist_is_named(graph: InPrecision, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the folder .*nowhere does not exist; create it first"):
        build_engine(graph(), tmp_path / "nowhere" / "x.engine")


@pytest.mark.parametrize("wanted", ["fp16", "int8", "int8+fp16"])
def test_a_precision_that_the_graph_does_not_declare_is_refused(
    graph: InPrecision, tmp_path: Path, wanted: str
) -> None:
    with pytest.raises(EngineError, match=rf"built as {wanted.replace('+', '.')} and its graph says fp32"):
        build_from_graph(
            graph(), tmp_path / "x.engine", BuildSettings(), flavor="rtx", require_precision=wanted
        )


def test_a_description_that_promises_more_than_the_graph_is_refused(
    graph: InPrecision, tmp_path: Path
) -> None:
    model, spec = read_model(graph())
    source = tmp_path / "boast.onnx"
    write_model(model, spec.replace(precision="int8"), source)
    with pytest.raises(EngineError, match=r"boast\.onnx was to be built as int8 and its graph says fp32"):
        build_engine(source, tmp_path / "x.engine", flavor="rtx")


def test_a_graph_quantised_for_cpus_is_refused(graph: InPrecision, frames: Path, tmp_path: Path) -> None:
    source = tmp_path / "cpu.onnx"
    quantize(graph(), source, calib=frames, method="minmax", target="cpu")
    with pytest.raises(UsageError, match=r"cpu\.onnx was quantised for CPUs, .* --target tensorrt"):
        build_engine(source, tmp_path / "x.engine", flavor="rtx")


def test_an_operator_that_tensorrt_does_not_have_is_named(small: SmallGraph, tmp_path: Path) -> None:
    source = small("odd.onnx", odd="Det")
    with pytest.raises(EngineError, match=r"does not accept .*odd\.onnx: node 'odd' \(Det\)"):
        build_engine(source, tmp_path / "x.engine", profiles=["1x8x8"], flavor="rtx")


def test_a_graph_with_other_inputs_than_it_promises_is_refused(small: SmallGraph, tmp_path: Path) -> None:
    source = small("named.onnx", image="picture")
    with pytest.raises(ModelError, match=r"expected input image uint8 of rank 4, found picture uint8"):
        build_engine(source, tmp_path / "x.engine", profiles=["1x8x8"], flavor="rtx")


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_onnx_file_is_refused(graph: InPrecision, tmp_path: Path, damage: str) -> None:
    data = graph().read_bytes()
    source = tmp_path / "bad.onnx"
    source.write_bytes({"cut": data[: len(data) // 2], "noise": os.urandom(4096), "empty": b""}[damage])
    with pytest.raises(FcnDeployError, match=r"bad\.onnx"):
        build_engine(source, tmp_path / "x.engine", flavor="rtx")
    assert list(tmp_path.iterdir()) == [source]


def test_a_full_disk_leaves_the_old_pair(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = graph(precision="fp16")
    output = tmp_path / "x.engine"
    old = build(graph(), output, profiles=[SMALL], flavor="rtx")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine.os, "fsync", full)
    with pytest.raises(UsageError, match=r"cannot write .*x\.engine: No space left on device"):
        build_engine(new, output, profiles=[SMALL], flavor="rtx")
    monkeypatch.undo()
    assert check_engine(output) == old
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_an_error_of_the_callers_progress_function_goes_on_as_it_is(
    small: SmallGraph, tmp_path: Path, number: int
) -> None:
    raised = OSError(number, os.strerror(number))

    def fail(step: str) -> None:
        try:
            raise KeyError("of the caller")
        except KeyError:
            raise raised from None

    with pytest.raises(OSError) as caught:
        build_engine(small(), tmp_path / "x.engine", profiles=["1x8x8"], flavor="rtx", progress=fail)
    assert caught.value is raised
    assert isinstance(raised.__context__, KeyError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["workspace", "optimization_level"])
def test_numbers_of_numpy_are_numbers(small: SmallGraph, tmp_path: Path, field: str) -> None:
    sizes = tuple(np.array([1, 8, 8]))
    result = build_engine(
        small(),
        tmp_path / "x.engine",
        profiles=[Profile(0, sizes, sizes, sizes)],
        flavor="rtx",
        hardware_compatible=np.bool_(False),
        **{field: np.int64(3 if field == "optimization_level" else 1 << 30)},
    )
    assert [str(profile) for profile in result.sidecar.profiles] == ["1x8x8:1x8x8:1x8x8"]


@pytest.mark.parametrize("field", ["workspace", "optimization_level", "dla_core"])
def test_a_number_that_is_not_whole_is_refused(small: SmallGraph, tmp_path: Path, field: str) -> None:
    with pytest.raises(UsageError, match=r"must be a whole number, not 1\.5"):
        build_engine(small(), tmp_path / "x.engine", flavor="rtx", **{field: 1.5})


def test_a_size_that_is_not_whole_is_refused(small: SmallGraph, tmp_path: Path) -> None:
    profile = Profile(0, (1, 8, 8), (1, 8, 8), (1, 8.5, 8))
    with pytest.raises(UsageError, match=r"a length in a profile must be a whole number, not 8\.5"):
        build_engine(small(), tmp_path / "x.engine", profiles=[profile], flavor="rtx")


def test_a_request_holds_nothing_that_json_would_change() -> None:
    with pytest.raises(TypeError, match="int64"):
        json.dumps({"x": np.int64(1)}, default=request._plain)


def test_a_file_that_is_replaced_meanwhile_is_not_what_the_engine_claims_to_come_from(
    graph: InPrecision, tmp_path: Path
) -> None:
    source = tmp_path / "x.onnx"
    source.write_bytes(graph().read_bytes())

    def replace(step: str) -> None:
        if step == "writing":
            source.write_bytes(graph(precision="fp16").read_bytes())

    with pytest.raises(ModelError, match=r"x\.onnx was changed while an engine was built from it"):
        build_engine(source, tmp_path / "x.engine", profiles=[SMALL], flavor="rtx", progress=replace)
    assert list(tmp_path.iterdir()) == [source]


def test_a_disk_without_room_is_told_before_the_build(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(UsageError, match=r"MB free and .* MB are needed"):
        build_engine(graph(), tmp_path / "x.engine", flavor="rtx")


@pytest.mark.parametrize("broken", ["x.engine", "x.engine.json"])
def test_half_a_pair_is_never_taken_for_a_whole_one(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Whichever of the two files is not replaced, what is left is the old pair or is refused."""
    new = graph(precision="fp16")
    output = tmp_path / "x.engine"
    old = build(graph(), output, profiles=[SMALL], flavor="rtx")
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if Path(target).name == broken:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_engine(new, output, profiles=[SMALL], flavor="rtx")
    monkeypatch.undo()
    if broken == "x.engine":
        assert check_engine(output) == old
    else:
        with pytest.raises(EngineError, match="one of the two was replaced; copy both again"):
            check_engine(output)
    assert len(list(tmp_path.iterdir())) == 2


def test_ctrl_c_ends_a_build_and_leaves_the_old_pair(graph: InPrecision, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    old = build(graph(), output, profiles=[SMALL], flavor="rtx")
    steps: list[str] = []

    def press(step: str) -> None:
        steps.append(step)
        if len([s for s in steps if s.startswith("building: ")]) == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_engine(graph(precision="fp16"), output, profiles=[SMALL], flavor="rtx", progress=press)
    assert "writing" not in steps
    assert check_engine(output) == old
    assert len(list(tmp_path.iterdir())) == 2


def test_a_progress_function_that_fails_ends_the_build(graph: InPrecision, tmp_path: Path) -> None:
    def broken(step: str) -> None:
        if step.startswith("building: "):
            raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        build_engine(graph(), tmp_path / "x.engine", profiles=[SMALL], flavor="rtx", progress=broken)
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_is_said_to_be_that(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    def starved(self: builder.Build, monitor: object) -> None:
        text = "Error Code 10: Internal Error (Could not find any implementation for node conv1_1.)"
        logging.getLogger("fcn_deploy.tensorrt").error(text)
        raise EngineError(f"TensorRT could not build the engine: {self._log.reason()}")

    monkeypatch.setattr(builder.Build, "run", starved)
    with pytest.raises(EngineError) as caught:
        build_engine(graph(), tmp_path / "x.engine", profiles=[SMALL], flavor="rtx")
    told = str(caught.value)
    assert "most likely ran out of GPU memory" in told
    assert "implementation for node conv1_1" in told
    assert f"for the profile {SMALL}" in told
    assert "lower the profile's maximum" in told


def test_tensorrt_without_a_gpu_says_where_to_build(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    pretend(monkeypatch, gpu=None)
    with pytest.raises(BackendUnavailable, match=r"TensorRT builds on the GPU .* no driver.* --flavor rtx"):
        build_engine(graph(), tmp_path / "x.engine", flavor="tensorrt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"compute_capabilities": ["8.6"]}, "compute capabilities are for --flavor rtx"),
        ({"dla_core": 0}, "a DLA computes in fp16 and INT8 only"),
    ],
)
def test_what_tensorrt_does_not_have_is_refused(
    graph: InPrecision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: None,
    change: dict,
    told: str,
) -> None:
    pretend(monkeypatch, gpu=Gpu("Orin", "8.7", 8 << 30))
    with pytest.raises(UsageError, match=told):
        build_engine(graph(), tmp_path / "x.engine", flavor="tensorrt", **change)


def test_a_dla_takes_one_size(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    pretend(monkeypatch, gpu=Gpu("Orin", "8.7", 8 << 30))
    with pytest.raises(UsageError, match="a DLA takes frames of one size"):
        build_engine(graph(precision="fp16"), tmp_path / "x.engine", flavor="tensorrt", dla_core=0)


def pretend(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None) -> None:
    """TensorRT proper is installed; it is RTX's module under its name, of which nothing is called here."""
    monkeypatch.setattr(worker, "import_tensorrt", lambda _: type("Module", (), {"__name__": "tensorrt"}))
    monkeypatch.setattr(worker, "gpu_problem", lambda: None if gpu else "no driver is installed")
    monkeypatch.setattr(worker, "describe_gpu", lambda: gpu)


def test_more_memory_than_is_free_is_warned_of(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.setattr(worker, "describe_gpu", lambda: Gpu("RTX", "8.6", 1 << 30))
    monkeypatch.setattr(worker, "free_memory", lambda: 1000)
    monkeypatch.setattr(worker, "validity", lambda *_: "valid")
    with pytest.warns(UserWarning, match="the GPU has 0 MB free; a smaller maximum needs less"):
        sidecar = build(graph(), tmp_path / "x.engine", profiles=[SMALL], flavor="rtx")
    assert sidecar.precision["validity"] == "valid"
    assert sidecar.build["memory"]["free"] == 1000


REPORT = {
    "Layers": [
        {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Thirty-two wide channel Int8"}]},
        {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Channel major FP16 format"}]},
        {"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Row major linear Float"}]},
        {"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Row major linear Int64"}]},
    ]
}


def test_layers_of_an_inspectors_report_are_counted_by_type() -> None:
    assert builder.count_layers(json.dumps(REPORT)) == {"int8": 1, "fp16": 1, "fp32": 1, "other": 1}
    for broken in ("{", "[]", '{"Layers": ["conv1_1"]}'):
        with pytest.raises(EngineError, match="report could not be read"):
            builder.count_layers(broken)


def test_an_engine_that_does_not_do_what_was_asked_is_not_written(
    graph: InPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    """With a device the engine is asked; what it says comes from a stand-in for the inspector here."""
    monkeypatch.setattr(worker, "describe_gpu", lambda: Gpu("Orin", "8.7", 8 << 30))
    monkeypatch.setattr(worker, "free_memory", lambda: None)
    monkeypatch.setattr(worker, "_build", lambda *_: b"engine")
    monkeypatch.setattr(worker, "gpu_problem", lambda: None)
    module = type("Module", (), {"__name__": "tensorrt", "__version__": "10.3.0"})
    monkeypatch.setattr(worker, "import_tensorrt", lambda _: module)
    monkeypatch.setattr(worker, "achieved_precision", lambda *_: {"fp32": 18})
    with pytest.raises(EngineError, match="to run in fp16 and no layer of it does in fp16"):
        build_engine(graph(precision="fp16"), tmp_path / "x.engine", flavor="tensorrt")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(worker, "achieved_precision", lambda *_: {"fp32": 2, "fp16": 16})
    sidecar = build(graph(precision="fp16"), tmp_path / "x.engine", flavor="tensorrt")
    assert sidecar.precision["achieved"] == {"fp32": 2, "fp16": 16}
    assert (sidecar.flavor, sidecar.target.gpu) == (TENSORRT, "Orin")
    portable = build(
        graph(), tmp_path / "x.engine", flavor="tensorrt", hardware_compatible=True, version_compatible=True
    )
    assert (portable.target.compute_capabilities, portable.target.later) == (("8.0",), True)
    assert portable.target.gpu is None
    assert portable.version_compatible
