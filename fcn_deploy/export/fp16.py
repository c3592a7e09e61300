"""Every conversion to fp16 goes through here: range check, conversion, comparison, evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.export.parity import Expected, Frames, ParityReference, check_parity, graph_results
from fcn_deploy.export.precision import check_fp16_range, to_fp16
from fcn_deploy.runtimes.artefact import identity
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

SYNTHETIC_CLIP = "the synthetic street clip"
"""Name of the frames that the range check uses where none are given."""


def convert_to_fp16(
    graph: ModelProto,
    spec: ModelSpec,
    reference: ParityReference,
    *,
    calib: str | Path | None = None,
    keep_fp32: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> tuple[ModelProto, ModelSpec]:
    """An fp32 deploy graph as fp16, with the evidence of how much the results change.

    Args:
        graph: the fp32 graph; it is not changed.
        spec: its description.
        reference: gives the expected logits, in fp32.
        calib: images or a video for the range check; None uses the synthetic clip.
        keep_fp32: leave layers that overflow fp16 in fp32 instead of failing.
        step: called with the name of each step as it begins.

    Raises:
        SourceError: the frames cannot be used.
        ExportError: a layer overflows fp16, or the graph is not fp32.
    """
    step("checking the range of each layer in fp16")
    frames = None if calib is None else CalibrationFrames(Path(calib), spec)
    source = SYNTHETIC_CLIP if calib is None else Path(calib).resolve().name
    ranges = check_fp16_range(graph, spec, frames, source, keep_fp32=keep_fp32)
    half = to_fp16(graph, ranges["kept_fp32"])
    step("comparing the fp16 graph")
    # ONNX Runtime's CPU provider computes in fp32, so this shows the rounding of the weights alone.
    parity = check_parity(half, reference, spec, tolerance=None)
    if fp32 := spec.evidence.get("parity"):
        parity["fp32"] = fp32
    spec = spec.replace(precision="fp16").with_evidence("fp16_range", ranges)
    return half, spec.with_evidence("parity", parity)


def convert_file_to_fp16(
    model: str | Path,
    output: str | Path,
    *,
    calib: str | Path | None = None,
    keep_fp32: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> ModelSpec:
    """An fp32 ONNX artefact -> an fp16 one, compared with the fp32 graph.

    Args:
        model: what export wrote, in fp32.
        output: where the fp16 file goes.
        calib: as in :func:`convert_to_fp16`, and so are ``keep_fp32`` and ``step``.

    Returns:
        The description as written.

    Raises:
        UsageError, ModelError: a file cannot be read or written.
        SourceError, ExportError: as :func:`convert_to_fp16`.
    """
    graph, spec = read_model(model)
    with graph_results(graph) as results:

        def expected(images: Frames) -> Expected:
            labels, logits = results(images)
            return Expected(logits, labels)

        half, spec = convert_to_fp16(
            graph,
            spec,
            ParityReference(expected, f"{Path(model).name} in fp32", "the fp32 graph"),
            calib=calib,
            keep_fp32=keep_fp32,
            step=step,
        )
    spec = spec.with_parent(kind="onnx", name=Path(model).name, sha256=identity(model))
    return write_model(half, spec, output)
