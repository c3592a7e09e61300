"""What is quantised and how: choices that do not go together, and what a layer's work is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcn_deploy.calibration.pairs import layer_inputs
from fcn_deploy.calibration.recipe import Recipe, layer_costs, open_fp32, quantized_graph
from fcn_deploy.errors import CalibrationError, UsageError


@pytest.mark.parametrize(
    ("fields", "precision"),
    [
        ({"target": "tensorrt"}, "int8+fp16"),
        ({"target": "tensorrt", "float_precision": "fp32"}, "int8"),
        ({"target": "cpu"}, "int8"),
        ({"target": "cpu", "float_precision": "fp32", "assume_vnni": True}, "int8"),
    ],
)
def test_the_rest_decides_the_precision(fields: dict, precision: str) -> None:
    assert Recipe(**fields).precision == precision


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "gpu"},
        {"method": "mse"},
        {"float_precision": "bf16"},
        {"target": "cpu", "float_precision": "fp16"},
        {"target": "tensorrt", "assume_vnni": True},
    ],
)
def test_choices_that_cannot_be_are_refused(fields: dict) -> None:
    with pytest.raises(UsageError):
        Recipe(**fields)


def test_activations_beyond_fp16_are_refused_where_the_rest_is_fp16(fp32, made_up_table) -> None:
    table = made_up_table(fp32)
    tensor = layer_inputs(fp32.model)["conv3_2"]
    loud = {**table.measured, tensor: {**table.measured[tensor], "minmax": (0.0, 9e4)}}
    table = replace(table, measured=loud)
    with pytest.raises(CalibrationError, match=r"conv3_2 reads values up to 9e\+04 .*--float-precision fp32"):
        quantized_graph(fp32, table, Recipe("tensorrt"))
    quantized_graph(fp32, table, Recipe("tensorrt", float_precision="fp32"))
    quantized_graph(fp32, table, Recipe("cpu"))


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-lite"])
def test_work_is_shared_out_among_the_convolutions(narrow, variant: str) -> None:
    fp32 = open_fp32(narrow(variant, classes=5))
    work = layer_costs(fp32)
    assert set(work) == set(layer_inputs(fp32.model)) and sum(work.values()) == pytest.approx(1)
    # Four channels from three and from four at full size; a quarter of the pixels behind each pooling.
    assert work["conv1_2"] / work["conv1_1"] == pytest.approx(4 / 3)
    assert work["conv2_1"] / work["conv1_2"] == pytest.approx(2 / 4)
    assert work["conv5_2"] == pytest.approx(work["conv5_1"])
