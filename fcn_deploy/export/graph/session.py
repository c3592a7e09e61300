"""ONNX Runtime sessions on graphs in memory."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.errors import ExportError
from fcn_deploy.export.graph.files import SINGLE_FILE_LIMIT, weight_bytes
from fcn_deploy.export.graph.surgery import element_types
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.base import usable_cores
from fcn_deploy.runtimes.onnxruntime import WRONG_OPTIMIZERS

if TYPE_CHECKING:
    from onnx import ModelProto


@contextmanager
def open_session(model: ModelProto, watched: Iterable[str] = ()) -> Iterator[Any]:
    """An ONNX Runtime CPU session on a graph in memory, that can also return inner float tensors.

    Args:
        model: any graph; it is not changed.
        watched: tensors to return beside the graph's outputs.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    onnx = require("onnx", extra="export")
    ort = require("onnxruntime", extra="cpu")
    present = {output.name for output in model.graph.output}
    added = [name for name in watched if name not in present]
    kinds = element_types(model)
    outputs = [onnx.helper.make_tensor_value_info(name, kinds[name], None) for name in added]
    options = ort.SessionOptions()
    # By default it uses all cores of the machine, even where this process may use fewer.
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        model.graph.output.extend(outputs)
        try:
            source: bytes | str = Path(folder, "probe.onnx").as_posix()
            if weight_bytes(model) <= SINGLE_FILE_LIMIT:
                source = model.SerializeToString()
            else:
                onnx.save(copy.deepcopy(model), source, save_as_external_data=True, location="probe.data")
        finally:
            del model.graph.output[len(present) :]
        try:
            session = ort.InferenceSession(
                source,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=WRONG_OPTIMIZERS,
            )
            del source
            yield session
        except ort.capi.onnxruntime_pybind11_state.Fail as exc:
            raise ExportError(f"ONNX Runtime {ort.__version__} refuses the graph: {exc}") from exc
