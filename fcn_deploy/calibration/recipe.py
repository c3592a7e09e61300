"""How a graph is quantised (the recipe), the fp32 artefact it is for, and the Q/DQ graph it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.calibration.pairs import default_layers, layer_inputs
from fcn_deploy.calibration.placement import TARGETS, place, target_of
from fcn_deploy.calibration.ranges import METHODS
from fcn_deploy.calibration.table import CalibrationTable
from fcn_deploy.errors import CalibrationError, ModelError, UsageError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.graph.normal_form import at_least_opset
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.precision import FP16_LARGEST, to_fp16
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

FLOAT_PRECISIONS = ("fp16", "fp32")
_OPSET = 19
"""The oldest with fp16 scales in Q/DQ; scales by channel came with 13."""
_STEP = 128
"""By how many rows and columns a frame grows while the growth of maps is read: a multiple of strides."""


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
        UsageError: the file cannot be read, or is no ONNX file.
        ModelError: it is not ours, not fp32 any more, or its opset is older than Q/DQ with fp16 scales and
            cannot be converted.
    """
    if Path(path).suffix in (".pt2", ".safetensors", ".engine"):
        raise UsageError(f"{path}: INT8 is made of the .onnx file of a model; export it as .onnx first")
    model, spec = read_model(path)
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if quantised or spec.precision != "fp32":
        found = "quantised already" if quantised else spec.precision
        raise ModelError(
            f"{path} is {found}, and ranges are taken from fp32; start from the fp32 file: fcn-deploy export "
            "--precision fp32"
        )
    return Fp32Model(Path(path), at_least_opset(model, _OPSET), spec)


def quantised_layers(fp32: Fp32Model, recipe: Recipe) -> list[str]:
    """The convolutions that run on integers, in graph order.

    Raises:
        UsageError: a layer to leave out does not exist.
    """
    known = layer_inputs(fp32.model)
    if unknown := sorted(set(recipe.float_layers) - set(known)):
        raise UsageError(f"there is no convolution {unknown[0]}; choose from {', '.join(known)}")
    return [name for name in default_layers(fp32.model, recipe.target) if name not in recipe.float_layers]


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
        _check_fp16(fp32.model, table)
    base = to_fp16(fp32.model) if recipe.half else None
    return place(fp32.model, table.ranges(recipe.method, recipe.target), layers, target, base)


def _check_fp16(model: ModelProto, table: CalibrationTable) -> None:
    """Raises CalibrationError where a layer read more than fp16 holds while the frames passed."""
    for layer, tensor in layer_inputs(model).items():
        largest = max(map(abs, table.measured.get(tensor, {}).get("minmax", (0.0,))))
        if largest > FP16_LARGEST:
            raise CalibrationError(
                f"{layer} reads values up to {largest:.4g} and fp16 ends at {FP16_LARGEST:.0f}; "
                "keep what is not INT8 in fp32 (--float-precision fp32), or train with smaller activations"
            )


def layer_costs(fp32: Fp32Model) -> dict[str, float]:
    """Share of the multiply-adds of all convolutions by layer, from 0 to 1, at any large frame size.

    By how much a map grows with the frame says what its pixels cost, whatever strides, pooling and upsampling
    lie before it; padding does not grow, and nor does what stands behind global pooling.
    """
    weights = {t.name: int(np.prod(t.dims)) for t in fp32.model.graph.initializer}
    convs = [node for node in fp32.model.graph.node if node.op_type == "Conv"]
    areas = _areas(fp32, [conv.output[0] for conv in convs])
    work = {conv.name: weights.get(conv.input[1], 0) * area for conv, area in zip(convs, areas, strict=True)}
    total = sum(work.values())
    return {name: value / total for name, value in work.items()}


def _areas(fp32: Fp32Model, maps: list[str]) -> list[float]:
    """How much area each map gains from a larger frame; its area where the frame's size is fixed."""
    batch, *fixed = fp32.spec.fixed_shape
    least = -(-max(fp32.spec.min_height, fp32.spec.min_width, _STEP) // _STEP) * _STEP
    with open_session(fp32.model, maps) as session:

        def sizes(more: int) -> NDArray[np.float64]:
            height, width = (side or least + more for side in fixed)
            image = np.zeros((batch or 1, height, width, 3), np.uint8)
            return np.array([found.shape[2:] for found in session.run(maps, {"image": image})], np.float64)

        smaller, larger = sizes(0), sizes(_STEP)
    grown = np.where([side is not None for side in fixed], larger, larger - smaller)
    areas: list[float] = grown.prod(axis=1).tolist()
    return areas
