"""How a graph is quantised (the recipe), the fp32 artefact it is for, and the Q/DQ graph it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.calibration.placement import TARGETS, default_layers, layer_inputs, place, target_of
from fcn_deploy.calibration.ranges import METHODS
from fcn_deploy.calibration.table import CalibrationTable
from fcn_deploy.errors import CalibrationError, ModelError, UsageError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.precision import FP16_LARGEST, to_fp16
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

FLOAT_PRECISIONS = ("fp16", "fp32")


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantised.

    Raises:
        UsageError: a field is not one of the choices, or two do not go together.
    """

    target: str = "tensorrt"
    """``tensorrt`` or ``cpu``."""
    method: str = "entropy"
    """``minmax``, ``percentile`` or ``entropy``."""
    float_precision: str | None = None
    """What is not INT8: ``fp16`` (the default for TensorRT) or ``fp32`` (the only one for CPUs)."""
    assume_vnni: bool = False
    """8-bit weights for CPUs that have VNNI; the others refuse the file."""
    float_layers: tuple[str, ...] = ()
    """Convolutions left in higher precision, beside the score layers."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("target", self.target, TARGETS),
            ("method", self.method, METHODS),
            ("float_precision", self.float_precision or "fp32", FLOAT_PRECISIONS),
        ):
            if value not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if self.target == "cpu" and self.float_precision == "fp16":
            raise UsageError(
                "a CPU gains nothing from fp16; leave the float precision at fp32, or choose target tensorrt"
            )
        if self.target != "cpu" and self.assume_vnni:
            raise UsageError("assume_vnni is about CPUs; choose target cpu, or leave it out")

    @property
    def half(self) -> bool:
        """Whether what is not INT8 is fp16."""
        return (self.float_precision or ("fp16" if self.target == "tensorrt" else "fp32")) == "fp16"

    @property
    def precision(self) -> str:
        """The spec's word for it."""
        return "int8+fp16" if self.half else "int8"


@dataclass(frozen=True)
class Fp32Model:
    """The fp32 artefact that is quantised."""

    path: Path
    model: ModelProto
    spec: ModelSpec


def open_fp32(path: str | Path) -> Fp32Model:
    """Read an fp32 artefact to quantise.

    Raises:
        UsageError: the file cannot be read.
        ModelError: it is not ours, or not fp32 any more.
    """
    model, spec = read_model(path)
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if quantised or spec.precision != "fp32":
        found = "quantised already" if quantised else spec.precision
        raise ModelError(
            f"{path} is {found}, and ranges are taken from fp32; start from the fp32 file: fcn-deploy export "
            "--precision fp32"
        )
    return Fp32Model(Path(path), model, spec)


def quantised_layers(fp32: Fp32Model, recipe: Recipe) -> list[str]:
    """The convolutions that run on integers, in graph order.

    Raises:
        UsageError: a layer to leave out does not exist.
    """
    known = layer_inputs(fp32.model)
    if unknown := sorted(set(recipe.float_layers) - set(known)):
        raise UsageError(f"there is no convolution {unknown[0]}; choose from {', '.join(known)}")
    return [name for name in default_layers(fp32.model) if name not in recipe.float_layers]


def quantized_graph(fp32: Fp32Model, table: CalibrationTable, recipe: Recipe) -> ModelProto:
    """The Q/DQ graph of a recipe, in memory.

    Raises:
        UsageError: a layer to leave out does not exist.
        CalibrationError: no layer is left to quantise, or fp16 cannot hold what one reads.
    """
    layers = quantised_layers(fp32, recipe)
    if not layers:
        raise CalibrationError("no layer is left for INT8; leave fewer in higher precision")
    target = target_of(recipe.target, assume_vnni=recipe.assume_vnni)
    if recipe.half:
        _check_fp16(table)
    base = to_fp16(fp32.model) if recipe.half else fp32.model
    return place(base, table.ranges(recipe.method, recipe.target), layers, target)


def _check_fp16(table: CalibrationTable) -> None:
    """Raises CalibrationError where a layer read more than fp16 holds while the frames passed."""
    for layer, limits in table.limits.items():
        if limits["minmax"] > FP16_LARGEST:
            raise CalibrationError(
                f"{layer} reads values up to {limits['minmax']:.4g} and fp16 ends at {FP16_LARGEST:.0f}; "
                "keep what is not INT8 in fp32 (--float-precision fp32), or train with smaller activations"
            )


def layer_costs(model: ModelProto) -> dict[str, float]:
    """Share of the multiply-adds of all convolutions by layer, from 0 to 1, at any large frame size."""
    strides = _downsampling(model)
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    work = {
        node.name: sizes[node.input[1]] / strides[node.name] ** 2
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    total = sum(work.values())
    return {name: value / total for name, value in work.items()}


def _downsampling(model: ModelProto) -> dict[str, int]:
    """By how much each convolution's frame is smaller than the camera's: 2 for each pooling before."""
    makers = {name: node for node in model.graph.node for name in node.output}
    strides = {}
    for layer, tensor in layer_inputs(model).items():
        stride, node = 1, makers.get(tensor)
        while node is not None and node.op_type in ("Relu", "MaxPool", "Conv", "Mul"):
            stride *= 2 if node.op_type == "MaxPool" else 1
            node = makers.get(node.input[0])
        strides[layer] = stride
    return strides
