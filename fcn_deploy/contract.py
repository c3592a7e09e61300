"""The inputs and outputs of the deploy graph, held against what a library found in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fcn_deploy.errors import FcnDeployError, ModelError
from fcn_deploy.spec import ModelSpec

_INPUTS = {"image": ("uint8", 4)}


_OUTPUTS = {"labels": ("uint8", 3), "confidence": ("float32", 3), "logits": ("float32", 4)}


class Port(NamedTuple):
    """An input or output as a library describes it."""

    dtype: str
    """As numpy calls it, where numpy knows it."""
    shape: tuple[Any, ...]
    """Whole numbers; whatever the library shows for a length that varies."""


def check_deploy_graph(
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    spec: ModelSpec,
    path: Path,
    *,
    error: type[FcnDeployError] = ModelError,
    remedy: str = "export it again",
) -> None:
    """Hold a graph's inputs and outputs against the contract of the deploy graph.

    Args:
        inputs: by name, all that the graph has.
        outputs: by name, all that the graph has.
        spec: names the outputs that there should be.
        path: the file, for the message.
        error: what is raised.
        remedy: what to do, for the message.

    Raises:
        error: a name, type or rank differs; says what was expected and found.
    """
    expected_outputs = {name: _OUTPUTS[name] for name in spec.outputs}
    for what, ports, expected in (("input", inputs, _INPUTS), ("output", outputs, expected_outputs)):
        found = {name: (port.dtype, len(port.shape)) for name, port in ports.items()}
        if found != expected:
            raise error(
                f"{path} is not the deploy graph that its description promises: expected {what} "
                f"{_in_words(expected)}, found {_in_words(found)}; {remedy}"
            )
    channels = inputs["image"].shape[-1]
    if channels != 3:
        raise error(f"{path} takes frames of {channels} channels where 3 are expected; {remedy}")


def _in_words(ports: Mapping[str, tuple[str, int]]) -> str:
    return (
        ", ".join(f"{name} {dtype} of rank {rank}" for name, (dtype, rank) in sorted(ports.items())) or "none"
    )
