"""Every TensorRT name that our code uses exists in TensorRT 10.3, 10.16, 11.4 and TensorRT-RTX 1.7.

No GPU is needed to know: the names come from the real bindings (``fetch_bindings.sh`` fetches them and
writes ``names-*.json``). That a name exists does not prove that the call works.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fcn_deploy

HERE = Path(__file__).parent
PACKAGE = Path(fcn_deploy.__file__).parent
BINDINGS = os.environ.get("FCN_DEPLOY_TENSORRT_BINDINGS")

TENSORRT = ("10.3", "10.16", "11.4")
RTX = ("rtx-1.7",)

USED_EVERYWHERE = {
    "": "Builder ILogger IProgressMonitor OnnxParser Runtime",
    "Builder": "build_serialized_network create_builder_config create_network create_optimization_profile "
    "num_DLA_cores",
    "BuilderFlag": "GPU_FALLBACK VERSION_COMPATIBLE",
    "DeviceType": "DLA",
    "EngineInspector": "get_engine_information",
    "ExecutionContextAllocationStrategy": "USER_MANAGED",
    "HardwareCompatibilityLevel": "AMPERE_PLUS",
    "IBuilderConfig": "DLA_core add_optimization_profile builder_optimization_level create_timing_cache "
    "default_device_type get_timing_cache hardware_compatibility_level profiling_verbosity progress_monitor "
    "set_flag set_memory_pool_limit set_timing_cache",
    "ICudaEngine": "create_engine_inspector create_execution_context device_memory_size_v2 get_tensor_dtype "
    "get_tensor_mode get_tensor_name get_tensor_profile_shape get_tensor_shape num_io_tensors "
    "num_optimization_profiles",
    "IExecutionContext": "execute_async_v3 get_tensor_shape set_device_memory set_input_shape "
    "set_optimization_profile_async set_tensor_address",
    "ILogger": "log ERROR INFO INTERNAL_ERROR VERBOSE WARNING",
    "INetworkDefinition": "get_input get_output num_inputs num_outputs",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "phase_finish phase_start step_complete",
    "ITensor": "dtype name shape",
    "ITimingCache": "serialize",
    "LayerInformationFormat": "JSON",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "get_error num_errors parse_from_file",
    "ParserError": "desc node_name node_operator",
    "ProfilingVerbosity": "DETAILED",
    "Runtime": "deserialize_cuda_engine engine_host_code_allowed",
    "DataType": "FLOAT UINT8",
}
"""Class -> the members that are used with every flavor; under "" the module's own names."""

USED_ON_RTX = {
    "": "ComputeCapability CudaGraphStrategy EngineInvalidityDiagnostics EngineValidity",
    "ComputeCapability": "SM75 SM80 SM86 SM89 SM120",
    "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
    "EngineValidity": "INVALID SUBOPTIMAL",
    "IBuilderConfig": "num_compute_capabilities set_compute_capability",
    "ICudaEngine": "create_runtime_config",
    "IRuntimeCache": "deserialize serialize",
    "IRuntimeConfig": "create_runtime_cache cuda_graph_strategy set_execution_context_allocation_strategy "
    "set_runtime_cache",
    "Runtime": "get_engine_validity",
}
"""What is used on TensorRT-RTX alone."""

HELD = (
    *("Builder", "IBuilderConfig", "INetworkDefinition", "IOptimizationProfile", "ITimingCache", "ITensor"),
    *("OnnxParser", "ParserError", "IHostMemory", "Runtime", "ICudaEngine", "EngineInspector"),
    *("IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "ISerializationConfig"),
)
"""The classes whose objects an application holds: their members are looked for by name."""

PYTHONS_OWN = {
    *("ERROR", "INFO", "WARNING", "dtype", "deserialize", "engine", "line", "log", "name", "nbytes", "parse"),
    *("reset", "serialize", "shape", "value", "write", "stop", "file", "code", "func", "flags"),
}
"""Attributes that TensorRT's classes have and so do those of Python, numpy or our own."""


def listing(version: str) -> dict[str, set[str]]:
    """What the bindings of a version have: class -> members."""
    names = json.loads((HERE / f"names-{version}.json").read_text())["names"]
    return {key: set(values) for key, values in names.items()}


def names(used: dict[str, str]) -> set[tuple[str, str]]:
    return {(holder, member) for holder, members in used.items() for member in members.split()}


def callers() -> list[Path]:
    """The modules that hold objects of TensorRT."""
    return [PACKAGE / "export" / "tensorrt" / "builder.py", *sorted(PACKAGE.glob("runtimes/tensorrt/*.py"))]


def mentioned(source: str) -> tuple[set[tuple[str, str]], set[str]]:
    """``trt.X`` and ``trt.X.Y`` in a source as (class, member), and every attribute's name."""
    chains: set[tuple[str, str]] = set()
    attributes: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        attributes.add(node.attr)
        parts = ast.unparse(node).split(".")
        module = next((i for i, part in enumerate(parts) if part in ("trt", "_trt")), None)
        if module is not None and len(parts) > module + 1:
            first, *rest = parts[module + 1 :]
            chains.add((first, rest[0]) if rest else ("", first))
    return {(h, m) for h, m in chains if not m.startswith("_") and not h.startswith("_")}, attributes


def unlisted(source: str) -> set[str]:
    """Names of TensorRT that a source uses and the lists above do not have."""
    listed = names(USED_EVERYWHERE) | names(USED_ON_RTX)
    chains, attributes = mentioned(source)
    holders = {holder for holder, _ in listed}
    versions = [listing(version) for version in (*TENSORRT, *RTX)]
    members = set().union(*(have.get(holder, set()) for have in versions for holder in HELD)) - PYTHONS_OWN
    known = {member for _, member in listed}
    missing = {
        f"{h}.{m}".strip(".") for h, m in chains if (h, m) not in listed and not (h == "" and m in holders)
    }
    return missing | {name for name in attributes & members if name not in known}


@pytest.mark.parametrize("version", [*TENSORRT, *RTX])
def test_every_name_that_is_used_exists(version: str) -> None:
    used = names(USED_EVERYWHERE) | (names(USED_ON_RTX) if version in RTX else set())
    have = listing(version)
    assert sorted((h, m) for h, m in used if m not in have.get(h, set())) == []


def test_the_check_can_fail() -> None:
    assert "max_workspace_size" not in listing("11.4")["IBuilderConfig"]
    assert "execute_async_v2" not in listing("11.4")["IExecutionContext"]
    assert "EXPLICIT_BATCH" in listing("10.3")["NetworkDefinitionCreationFlag"]
    assert "EXPLICIT_BATCH" not in listing("11.4")["NetworkDefinitionCreationFlag"]


@pytest.mark.parametrize("path", callers(), ids=lambda path: path.name)
def test_the_list_has_all_that_the_code_uses(path: Path) -> None:
    assert sorted(unlisted(path.read_text())) == []


def test_a_name_that_is_not_listed_is_noticed() -> None:
    assert unlisted("config.set_flag(trt.BuilderFlag.FP16)") == {"BuilderFlag.FP16"}
    assert unlisted("self._trt.create_infer_runtime()") == {"create_infer_runtime"}
    assert unlisted("context.execute_v2([])") == {"execute_v2"}


def test_nothing_is_listed_that_no_code_uses() -> None:
    sources = "\n".join(path.read_text() for path in callers())
    written = set(re.findall(r"\w+", sources))
    # SM86 and its like are looked up by pattern; types and severities come back as names.
    by_pattern = re.compile(r"SM\d+|log|FLOAT|UINT8")
    listed = names(USED_EVERYWHERE) | names(USED_ON_RTX)
    assert sorted((h, m) for h, m in listed if m not in written and not by_pattern.fullmatch(m)) == []


@pytest.mark.parametrize("version", TENSORRT)
def test_the_listing_is_what_the_real_bindings_have(version: str) -> None:
    if not BINDINGS or not Path(BINDINGS, version, "complete").exists():
        pytest.skip(f"no bindings of TensorRT {version} (FCN_DEPLOY_TENSORRT_BINDINGS, fetch_bindings.sh)")
    folder = Path(BINDINGS, version)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": str(folder)}
    assert list_names("tensorrt_bindings", environment) == (HERE / f"names-{version}.json").read_text()


def test_the_listing_is_what_tensorrt_rtx_has() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    recorded = (HERE / "names-rtx-1.7.json").read_text()
    if trt.__version__ != json.loads(recorded)["version"]:
        pytest.skip(f"TensorRT-RTX {trt.__version__} is installed, and 1.7 was listed")
    assert list_names("tensorrt_rtx", dict(os.environ)) == recorded


def list_names(module: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, str(HERE / "list_names.py"), module],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
