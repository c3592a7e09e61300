"""A network -> one ONNX file with dynamic batch, height and width, checked before it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fcn_deploy.answers.checking import require_answers
from fcn_deploy.contract import INPUT
from fcn_deploy.errors import ExportError, UsageError
from fcn_deploy.export.evidence import made_now
from fcn_deploy.export.fp16 import convert_to_fp16
from fcn_deploy.export.graph.files import SINGLE_FILE_LIMIT, weight_bytes, write_model
from fcn_deploy.export.graph.naming import tidy
from fcn_deploy.export.graph.normal_form import normalise
from fcn_deploy.export.graph.opset import IR_VERSION, OPSET
from fcn_deploy.export.graph.preparation import fold_preparation
from fcn_deploy.export.graph.surgery import find_node, pad_pooling
from fcn_deploy.export.parity import check_parity
from fcn_deploy.export.reference import reference_of
from fcn_deploy.export.tracing import EXAMPLE, dynamic_axes, failure, quiet
from fcn_deploy.lazy import require
from fcn_deploy.model.deploy import DeployModel
from fcn_deploy.model.network import Network, Rewrites
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto


def export_onnx(
    model: Network,
    spec: ModelSpec,
    path: str | Path,
    *,
    precision: str = "fp32",
    calib: str | Path | None = None,
    keep_fp32: bool = False,
    rewrites: Rewrites = Rewrites(),  # noqa: B008 - frozen
    check_against: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Export the deploy graph of a model, verify it, and write it.

    Args:
        model: the network, in float32.
        spec: its description; ``spec.outputs`` says which outputs the graph has.
        path: where the ONNX file goes.
        precision: ``fp32``, or ``fp16`` with float16 weights and activations from the first convolution on.
        calib: images or a video for the range check of fp16; None uses the synthetic clip.
        keep_fp32: leave layers that overflow fp16 in fp32 instead of failing.
        rewrites: which faster forms to use.
        check_against: answers of the original network, as :func:`fcn_deploy.check_answers` takes them.
        progress: called with the name of each step as it begins.

    Returns:
        The description as written, with the evidence of parity and, for fp16, of the ranges.

    Raises:
        UsageError: the file cannot be written, or ``precision`` is unknown.
        ParityError: the fp32 graph does not give what the plain module gives, or what the original gave.
        ExportError: the exporter failed, or a layer overflows fp16.
    """
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"precision must be fp32 or fp16, not {precision!r}; INT8 is made by quantize")
    step = progress or (lambda _: None)
    if Path(path).is_dir() or not Path(path).resolve().parent.is_dir():
        raise UsageError(f"{path} cannot be written: it is a folder, or its folder does not exist")

    step("tracing the deploy graph")
    deploy = DeployModel(model, spec, rewrites=rewrites).eval()
    graph = trace(deploy)

    reference = reference_of(model, spec)
    step(f"checking parity with {reference.network}")
    parity = check_parity(graph, reference, spec)
    spec = spec.replace(precision="fp32").with_evidence("parity", parity)
    if precision == "fp16":
        graph, spec = convert_to_fp16(graph, spec, reference, calib=calib, keep_fp32=keep_fp32, step=step)
    if check_against is not None:
        found = require_answers(graph, spec, check_against, Path(path).name, progress=step)
        spec = spec.with_evidence("answers", found)

    step("writing")
    spec = spec.with_evidence("made", made_now(torch=str(torch.__version__), opset=OPSET))
    return write_model(graph, spec, path)


def trace(deploy: DeployModel) -> ModelProto:
    """The deploy graph as ONNX: dynamic batch, height and width, our own names, fully checked.

    Raises:
        ExportError: the exporter or the checker refuses the graph.
    """
    require("onnxscript", extra="export")
    example = torch.zeros(*EXAMPLE, 3, dtype=torch.uint8)
    try:
        with quiet():
            program = torch.onnx.export(
                deploy,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(deploy.outputs),
                dynamic_shapes={INPUT: dynamic_axes()},
                verbose=False,
            )
        if program is None:
            raise ExportError("the exporter gave no graph")
        model: ModelProto = program.model_proto
    except ExportError:
        raise
    except Exception as exc:  # the exporter raises many classes, some of them private
        raise failure(exc) from exc
    normalise(model)
    tidy(model)
    pad_pooling(model)
    fold_preparation(model)
    find_node(model, "ArgMax")
    _check(model)
    return model


def _check(model: ModelProto) -> None:
    """onnx.checker's full check. Beyond 2 GB it works on files only, so the weights stay out."""
    onnx = require("onnx", extra="export")
    if model.ir_version > IR_VERSION:
        raise ExportError(
            f"the exporter wrote IR version {model.ir_version}; older devices open up to {IR_VERSION}"
        )
    try:
        onnx.checker.check_model(model, full_check=weight_bytes(model) <= SINGLE_FILE_LIMIT)
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the exported graph is not valid ONNX: {exc}") from exc
