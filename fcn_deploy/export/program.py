"""A network -> a ``.pt2`` file: the deploy graph as an exported PyTorch program, checked first.

The PyTorch backend runs it without the code that built the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._sympy.value_ranges import ValueRanges

from fcn_deploy.export.evidence import made_now
from fcn_deploy.export.parity import Results, check_results
from fcn_deploy.export.reference import reference_of
from fcn_deploy.export.tracing import EXAMPLE, dynamic_axes, failure, quiet
from fcn_deploy.files import atomic_output
from fcn_deploy.model.deploy import DeployModel, crop_by_index
from fcn_deploy.model.network import Network
from fcn_deploy.runtimes.pt2 import add_spec, content_of_program, write_manifest
from fcn_deploy.spec import ModelSpec

_PROBED = 64
"""Rows and columns of the frame that shows where the logits begin, at least."""


def export_program(
    model: Network, spec: ModelSpec, path: Path, *, progress: Callable[[str], None] | None = None
) -> ModelSpec:
    """Export the deploy graph of a network as a program, verify it, and write it with its manifest.

    Args:
        model: the network, in float32.
        spec: its description; ``spec.outputs`` says which outputs the program has.
        path: ends in ``.pt2``.
        progress: called with the name of each step as it begins.

    Returns:
        The description as written.

    Raises:
        UsageError: the file cannot be written.
        ParityError: the program does not give what the network gives.
        ExportError: PyTorch cannot export it.
    """
    step = progress or (lambda _: None)
    step("tracing the deploy graph")
    deploy = DeployModel(model, spec, crop=crop_by_index).eval()
    program = trace_program(deploy)
    reference = reference_of(model, spec)
    step(f"checking parity with {reference.network}")
    results = _results(program, deploy, max(_PROBED, spec.min_height, spec.min_width))
    parity = check_results(results, reference, spec, against=f"torch {torch.__version__} (CPU)")
    spec = spec.replace(precision="fp32").with_evidence("parity", parity)
    spec = spec.with_evidence("made", made_now(torch=str(torch.__version__)))
    step("writing")
    with atomic_output(path) as temporary:
        with quiet(), temporary.open("wb") as stream:  # by its path, it would name a folder inside after it
            torch.export.save(program, stream)
        spec = spec.with_digest(content_of_program(temporary))
        add_spec(temporary, spec)
    write_manifest(path, {"torch": str(torch.__version__)})
    return spec


def trace_program(deploy: DeployModel) -> torch.export.ExportedProgram:
    """The deploy graph as a program with dynamic batch, height and width.

    Raises:
        ExportError: PyTorch cannot export it.
    """
    example = torch.zeros(*EXAMPLE, 3, dtype=torch.uint8)
    try:
        with quiet():
            program = torch.export.export(
                deploy,
                (example,),
                dynamic_shapes={"image": dynamic_axes()},
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as exc:  # torch raises many classes, some of them private
        raise failure(exc) from exc
    _loosen(program)
    program.example_inputs = None
    return program


def _loosen(program: torch.export.ExportedProgram) -> None:
    """Remove what was assumed of sizes while tracing, and file paths of this machine.

    The exporter asserts what made it choose between two forms of the same result, such as whether a tensor
    can be viewed without a copy. The form that it chose is right for the other sizes too, or parity, which is
    checked behind this, finds out at tiny frames and at multiples of 32.
    """
    for node in list(program.graph.nodes):
        node.meta.pop("stack_trace", None)
        if node.op == "call_function" and node.target == torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    for symbol, bounds in list(program.range_constraints.items()):
        program.range_constraints[symbol] = ValueRanges(1, bounds.upper)


def _results(program: torch.export.ExportedProgram, deploy: DeployModel, side: int) -> Results:
    """A function that gives the labels of a program, and the logits from which it takes them.

    Args:
        program: made of ``deploy``.
        deploy: says where the frame begins in its logits.
        side: rows and columns of a frame that the network takes.
    """
    watched = _Watched(program.module(check_guards=False))
    start = 0
    # Without logits among the outputs the argmax reads them before the crop.
    if deploy.rewrites.crop_labels and "logits" not in deploy.outputs:
        example = torch.zeros(1, 3, side, side)
        with torch.inference_mode():
            start = deploy.model.logits_to_crop(deploy.padded(example), deploy.rewrites)[1]
    place = deploy.outputs.index("labels")

    def results(images: NDArray[np.uint8]) -> tuple[Any, Any]:
        height, width = images.shape[1:3]
        with torch.inference_mode():
            labels = watched.run(torch.from_numpy(images))[place]
        logits = watched.logits[..., start : start + height, start : start + width]
        return labels.numpy(), logits.numpy()

    return results


class _Watched(torch.fx.Interpreter):
    """Runs a program and keeps what its argmax reads."""

    logits: Tensor

    def run_node(self, node: torch.fx.Node) -> Any:
        if node.op == "call_function" and node.target == torch.ops.aten.argmax.default:
            self.logits = self.fetch_args_kwargs_from_env(node)[0][0]
        return super().run_node(node)
