"""The ONNX file that an engine is built from, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.export.tensorrt.declared import Declared, declared_precision
from fcn_deploy.files import input_file
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.onnx_file import check_external_data, without_weights
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class SourceGraph:
    """The graph that is built, without the contents of its weights."""

    path: Path
    spec: ModelSpec
    graph: ModelProto
    declared: Declared
    state: tuple[int, ...]
    """Inode, size and modification time of the file when it was read."""

    def require_unchanged(self) -> None:
        """Raises ModelError where the file is no longer the one that was read."""
        if _state(self.path) != self.state:
            raise ModelError(f"{self.path} was changed while an engine was built from it; build it again")


def read_source(onnx: str | Path) -> SourceGraph:
    """Read what export or quantize wrote.

    Raises:
        UsageError: it is missing, not an ONNX file, or was quantised for CPUs.
        ModelError: it is damaged, carries no description, or its external weights are missing.
        MissingDependency: onnx is not installed.
    """
    path = input_file(onnx, "ONNX file")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} is not an ONNX file; engines are built from what export or quantize wrote")
    state = _state(path)
    spec = read_spec(path)
    quantised = spec.evidence.get("quantization")
    if isinstance(quantised, dict) and quantised.get("target") == "cpu":
        raise UsageError(
            f"{path} was quantised for CPUs, and TensorRT does not build such a graph; make one with: "
            "fcn-deploy quantize model.onnx --target tensorrt"
        )
    check_external_data(path)
    package = require("onnx", extra="export")
    graph = package.load_from_string(without_weights(path))
    return SourceGraph(path, spec, graph, declared_precision(graph), state)


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
