"""FCN-8s of another variant with the weights of a graph: those variants take the same checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.answers.mistakes.networks import TrialNetwork, with_float_frame
from fcn_deploy.answers.running import Answered, cropped
from fcn_deploy.contract import INPUT
from fcn_deploy.data.images import Image
from fcn_deploy.errors import ExportError, ModelError
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import replace_nodes
from fcn_deploy.lazy import installed, require
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from fcn_deploy.model.fcn8s import FCN8s


def other_variants(spec: ModelSpec) -> list[str]:
    """Names of the variants that take the same weights and have other layers, not only other scales.

    None where it is another network, or PyTorch is missing.
    """
    if not installed("torch"):
        return []
    from fcn_deploy.model.fcn8s import VARIANTS, Variant

    def shapes(variant: Variant) -> tuple[object, ...]:
        return variant.fc6_size, variant.biased

    def layers(variant: Variant) -> tuple[object, ...]:
        return variant.frame_padding, variant.fc6_padding, variant.fc_relu

    own = VARIANTS.get(spec.architecture.name)
    others = [v for v in VARIANTS.values() if own and shapes(v) == shapes(own) and layers(v) != layers(own)]
    # Width and size of fc6 are options, so that variants that differ in these alone are one.
    different = {(layers(v), v.pool4_scale, v.pool3_scale): v.name for v in reversed(others)}
    return list(reversed(different.values()))


@contextmanager
def variant_network(model: ModelProto, spec: ModelSpec, name: str) -> Iterator[TrialNetwork]:
    """Another variant in PyTorch, behind the graph's own preparation of frames.

    Raises:
        ExportError: it has other layers than the graph.
    """
    torch = require("torch", extra="export")
    network = _network(model, spec, name)
    convolution = _first_convolution(model)
    graph, frame_name, kind = with_float_frame(_up_to(model, convolution.input[0]))
    with open_session(graph, [convolution.input[0]]) as session:

        def answer(image: Image, frame: NDArray[np.float32]) -> Answered:
            feeds = {INPUT: image[None], frame_name: frame[None].astype(kind)}
            prepared = session.run([convolution.input[0]], feeds)[0]
            with torch.inference_mode():
                logits = network(torch.from_numpy(prepared.astype(np.float32)))[0].numpy()
            logits = cropped(logits, 0, image)  # frames may be padded inside the graph
            return Answered(logits.argmax(0).astype(np.uint8), logits)

        yield answer


def _network(model: ModelProto, spec: ModelSpec, name: str) -> FCN8s:
    """The variant with the graph's weights, which are in the order of its layers."""
    torch = require("torch", extra="export")
    from fcn_deploy.model.fcn8s import FCN8s, Upscore

    numpy_helper = require("onnx", extra="export").numpy_helper
    unfit = ExportError(f"the graph has other layers than {name}")
    try:
        network = FCN8s(spec.num_classes, name, **spec.architecture.options)
    except (ModelError, TypeError) as exc:
        raise unfit from exc
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = [(torch.nn.Conv2d, "Conv"), *([(Upscore, "ConvTranspose")] if network.learned_upscore else [])]
    layers = [layer for kind, _ in pairs for layer in network.modules() if isinstance(layer, kind)]
    nodes = [node for _, kind in pairs for node in model.graph.node if node.op_type == kind]
    if len(layers) != len(nodes):
        raise unfit
    with torch.no_grad():
        for layer, node in zip(layers, nodes, strict=True):
            parameters = [p for p in (layer.weight, layer.bias) if p is not None]
            for parameter, key in zip(parameters, node.input[1:], strict=True):
                if key not in tensors or list(tensors[key].dims) != list(parameter.shape):
                    raise unfit
                values = numpy_helper.to_array(tensors[key]).astype(np.float32)
                parameter.copy_(torch.from_numpy(values))
    return network.eval()


def _first_convolution(model: ModelProto) -> NodeProto:
    first: NodeProto = next(node for node in model.graph.node if node.op_type == "Conv")
    return first


def _up_to(model: ModelProto, tensor: str) -> ModelProto:
    """A copy that only computes one tensor."""
    onnx = require("onnx", extra="export")
    copied: ModelProto = onnx.ModelProto()
    copied.CopyFrom(model)
    needed: set[str] = {tensor}
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.insert(0, node)
            needed.update(node.input)
    replace_nodes(copied.graph, kept)
    del copied.graph.output[:]
    copied.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return copied
