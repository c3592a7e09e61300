"""fp16 on a machine without it: a simulation that rounds where a device would.

ONNX Runtime's CPU provider computes fp16 graphs in fp32, so its results say nothing about fp16. Here the
graph becomes fp32 with every fp16 tensor rounded to half precision as soon as it is made, and what
overflows becomes infinite, as on a device. Sums inside a convolution stay in fp32, as tensor cores keep
them. It is a simulation: which kernels a device chooses is known only there.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.errors import ModelError
from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF, element_types
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def simulate_fp16(model: ModelProto) -> ModelProto:
    """A copy of an fp16 graph (with or without Q/DQ) that rounds as fp16 does when a CPU runs it.

    Args:
        model: a graph as ``to_fp16`` or quantisation with fp16 makes it.

    Raises:
        ModelError: nothing in the graph is fp16.
    """
    onnx = require("onnx", extra="export")
    kinds = element_types(model)
    half = {name for name, kind in kinds.items() if kind == PROTO_HALF}
    if not half:
        raise ModelError("nothing in this graph is fp16, so there is nothing to simulate")
    model = copy.deepcopy(model)
    for tensor in model.graph.initializer:
        if tensor.name in half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == PROTO_HALF:
                attribute.i = PROTO_FLOAT
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in half:
                node.output[i] = f"{name}.exact"
                inner = f"{name}.half"
                nodes.append(onnx.helper.make_node("Cast", [f"{name}.exact"], [inner], to=PROTO_HALF))
                nodes.append(onnx.helper.make_node("Cast", [inner], [name], to=PROTO_FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


@contextmanager
def simulated_artefact(path: str | Path) -> Iterator[Path]:
    """An ONNX file in a temporary folder that gives what an fp16 artefact would give in real fp16.

    Raises:
        UsageError, ModelError: the file cannot be read, or nothing in it is fp16.
    """
    model, spec = read_model(path)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, Path(path).name)
        write_model(simulate_fp16(model), spec, target)
        yield target
