"""What only TensorRT proper has: the calls are made on a stand-in that keeps what it was told.

That the names exist in the real bindings is tests/export/tensorrt/conformance; what a device does with them
is not known here.
"""

from __future__ import annotations

import json
import logging
import types
from pathlib import Path

import pytest

from fcn_deploy.building import build_engine
from fcn_deploy.errors import EngineError, UsageError
from fcn_deploy.export.tensorrt import builder, worker
from fcn_deploy.export.tensorrt.builder import Build, BuildSettings, LogCapture, capture_log
from fcn_deploy.export.tensorrt.profiles import default_profiles
from fcn_deploy.runtimes.cuda.gpus import Gpu
from fcn_deploy.runtimes.tensorrt.sidecar import TENSORRT, EngineTarget, check_engine, this_platform
from fcn_deploy.spec import Architecture, ModelSpec

rtx = pytest.importorskip("tensorrt_rtx")

ENUMS = (
    *("BuilderFlag", "DataType", "DeviceType", "HardwareCompatibilityLevel", "LayerInformationFormat"),
    *("MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "IProgressMonitor", "ILogger"),
)
REPORT = {"Layers": [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Row major FP16"}]}]}


class Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"+timings"


class Config:
    """Keeps what it is told; a timing cache that says so is of another device."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.pools: dict[str, int] = {}
        self.profiles: list[object] = []
        self.cache: Cache | None = None

    def set_flag(self, flag: object) -> None:
        self.flags.add(flag.name)

    def set_memory_pool_limit(self, pool: object, size: int) -> None:
        self.pools[pool.name] = size

    def add_optimization_profile(self, profile: object) -> int:
        self.profiles.append(profile)
        return -1 if profile.refused else len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> Cache | None:
        return None if data == b"damaged" else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.data == b"of another device" and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


class Shapes:
    refused = False

    def set_shape(self, name: str, *sizes: tuple[int, ...]) -> None:
        self.name, self.sizes = name, sizes


def tensor(name: str, rank: int) -> object:
    return types.SimpleNamespace(name=name, dtype=rtx.DataType.UINT8, shape=(-1, -1, -1, 3)[:rank])


class Builder:
    num_DLA_cores = 1

    def __init__(self, logger: object) -> None:
        self.config = Config()

    def create_network(self, flags: int) -> object:
        assert flags == 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return types.SimpleNamespace(
            num_inputs=1,
            num_outputs=1,
            get_input=lambda _: tensor("image", 4),
            get_output=lambda _: tensor("labels", 3),
        )

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Shapes:
        return Shapes()

    def build_serialized_network(self, network: object, config: Config) -> bytes:
        return b"an engine"


@pytest.fixture
def trt() -> types.ModuleType:
    """TensorRT 10.3 as far as building goes."""
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.3.0"
    for name in ENUMS:
        setattr(module, name, getattr(rtx, name))
    module.Builder = Builder
    module.OnnxParser = lambda *_: types.SimpleNamespace(parse_from_file=lambda path: True)
    inspector = types.SimpleNamespace(get_engine_information=lambda form: json.dumps(REPORT))
    opened = types.SimpleNamespace(create_engine_inspector=lambda: inspector)
    module.Runtime = lambda _: types.SimpleNamespace(deserialize_cuda_engine=lambda data: opened)
    return module


def told(trt: types.ModuleType, **settings: object) -> Config:
    """What the configuration was told for these settings."""
    build = Build(trt, "TensorRT 10.3.0", LogCapture())
    spec = ModelSpec(("a", "b"), Architecture("fcn8s-lite"))
    build.configure(BuildSettings(**settings), default_profiles(spec))
    return build._config


def test_settings_reach_the_configuration(trt: types.ModuleType) -> None:
    config = told(
        trt,
        workspace=1 << 20,
        optimization_level=4,
        hardware_compatible=True,
        version_compatible=True,
        detailed=True,
    )
    assert config.pools == {"WORKSPACE": 1 << 20}
    assert config.builder_optimization_level == 4
    assert config.hardware_compatibility_level == rtx.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.flags == {"VERSION_COMPATIBLE"}
    assert config.profiling_verbosity == rtx.ProfilingVerbosity.DETAILED
    assert config.profiles[0].sizes == ((1, 1, 1, 3), (1, 360, 480, 3), (1, 1080, 1920, 3))


def test_nothing_is_set_that_was_not_asked_for(trt: types.ModuleType) -> None:
    config = told(trt)
    assert (config.flags, config.pools) == (set(), {})
    assert not hasattr(config, "builder_optimization_level")
    assert not hasattr(config, "hardware_compatibility_level")


def test_a_dla_gets_the_layers_and_the_gpu_the_rest(trt: types.ModuleType) -> None:
    config = told(trt, dla_core=0)
    assert config.default_device_type == rtx.DeviceType.DLA
    assert config.DLA_core == 0
    assert config.flags == {"GPU_FALLBACK"}
    with pytest.raises(EngineError, match="DLA core 1 was asked for and this machine has 1"):
        told(trt, dla_core=1)


def test_a_profile_that_tensorrt_refuses(trt: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shapes, "refused", True)
    with pytest.raises(EngineError, match="refuses the profile 1x1x1:1x360x480:1x1080x1920"):
        told(trt)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, b"+timings"),
        (b"earlier", b"earlier+timings"),
        (b"of another device", b"+timings"),
        (b"damaged", b"+timings"),
    ],
)
def test_timings_are_kept_or_begun_anew(
    trt: types.ModuleType, tmp_path: Path, before: bytes | None, after: bytes
) -> None:
    path = tmp_path / "t.cache"
    if before is not None:
        path.write_bytes(before)
    build = Build(trt, "TensorRT 10.3.0", LogCapture())
    build.use_timing_cache(path)
    assert build.timing_cache() == after


def test_a_timing_cache_that_cannot_be_read(trt: types.ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the timing cache .* cannot be read"):
        Build(trt, "TensorRT 10.3.0", LogCapture()).use_timing_cache(tmp_path)


def test_a_builder_that_cannot_start_says_why(trt: types.ModuleType) -> None:
    def refused(_: object) -> None:
        logging.getLogger("fcn_deploy.tensorrt").error("CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = refused
    with capture_log() as log, pytest.raises(EngineError, match="could not start its builder: CUDA init"):
        Build(trt, "TensorRT 10.3.0", log)


def test_tensorrt_on_its_own_gpu(
    exported, trt: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    """The whole way on the stand-in: what the sidecar says of the GPU, and the timings beside the engine."""
    monkeypatch.setattr(worker, "import_tensorrt", lambda _: trt)
    monkeypatch.setattr(worker, "gpu_problem", lambda: None)
    monkeypatch.setattr(worker, "describe_gpu", lambda: Gpu("Orin", "8.7", 8 << 30))
    monkeypatch.setattr(worker, "free_memory", lambda: 4 << 30)
    output = tmp_path / "x.engine"
    sidecar = build_engine(exported()[0], output, profiles=["1x64x64"], flavor="tensorrt").sidecar
    assert sidecar.flavor == TENSORRT
    assert sidecar.target == EngineTarget(this_platform(), ("8.7",), gpu="Orin")
    assert sidecar.precision["achieved"] == {"fp16": 1}
    assert check_engine(output) == sidecar
    assert (tmp_path / "x.engine.timing").read_bytes() == b"+timings"


def test_timings_that_cannot_be_kept_do_not_cost_the_engine(
    exported, trt: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.setattr(worker, "import_tensorrt", lambda _: trt)
    monkeypatch.setattr(worker, "gpu_problem", lambda: None)
    monkeypatch.setattr(worker, "describe_gpu", lambda: Gpu("Orin", "8.7", 8 << 30))
    monkeypatch.setattr(worker, "free_memory", lambda: 4 << 30)
    output = tmp_path / "x.engine"
    with pytest.warns(UserWarning, match="were not kept: the folder .* does not exist"):
        build_engine(
            exported()[0],
            output,
            profiles=["1x64x64"],
            flavor="tensorrt",
            timing_cache=tmp_path / "nowhere" / "t.cache",
        )
    check_engine(output)


def test_the_logs_own_places_and_a_missing_driver_are_no_reasons() -> None:
    logger = logging.getLogger("fcn_deploy.tensorrt")
    with capture_log() as log:
        logger.error("Error Code 4: API Usage Error (bad profile. In isValid at /_src/optimizer/p.cpp:367)")
        logger.error("Cuda Runtime (In catchCudaError at /_src/x.hpp:250 (cudaError 35: CUDA driver version)")
        logger.warning("twice")
        logger.warning("twice")
    logger.error("after")
    assert log.reason() == "Error Code 4: API Usage Error (bad profile)"
    assert log.summary() == {"warnings": 2, "errors": 2, "first_warnings": ["twice"]}
    assert LogCapture().reason() == "it gave no reason"


def test_progress_is_one_fraction_that_never_leaves_0_to_1() -> None:
    seen: list[float] = []
    monitor = builder.make_monitor(rtx, lambda done, phase: seen.append(done))
    monitor.phase_start("build", None, 2)
    monitor.phase_start("optimize", "build", 4)
    for step in range(4):
        assert monitor.step_complete("optimize", step)
    monitor.phase_finish("optimize")
    assert monitor.step_complete("build", 0)
    assert monitor.step_complete("build", 1)
    assert seen == [0.125, 0.25, 0.375, 0.5, 0.5, 1.0]
