"""The inputs and outputs of the deploy graph, stated once: names, dtypes and axes.

Every artefact names the contract that it keeps (``ModelSpec.contract``). Export gives a graph these names,
each runtime compares the graph that it opens with them, and engines compute their memory from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fcn_deploy.errors import FcnDeployError, ModelError


@dataclass(frozen=True)
class Tensor:
    """An input or output as the contract states it."""

    dtype: str
    """numpy's name of the type."""
    axes: tuple[str | int, ...]
    """Axis names for lengths that vary with the frames, numbers for fixed ones; ``classes`` is the model's
    number of classes."""

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for these lengths by axis name."""
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.axes)


@dataclass(frozen=True)
class Contract:
    """What goes into a graph and what comes out of it."""

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


INPUT = "image"
"""The deploy graph's one input."""

DEPLOY = Contract(
    name="uint8-nhwc",
    inputs=MappingProxyType({INPUT: Tensor("uint8", ("batch", "height", "width", 3))}),
    outputs=MappingProxyType(
        {
            "labels": Tensor("uint8", ("batch", "height", "width")),
            "confidence": Tensor("float32", ("batch", "height", "width")),
            "logits": Tensor("float32", ("batch", "classes", "height", "width")),
        }
    ),
)
"""Frames of a camera in, class ids out; see docs/reference/deploy-graph.md."""

CONTRACTS: Mapping[str, Contract] = MappingProxyType({DEPLOY.name: DEPLOY})
"""By name, as :class:`~fcn_deploy.spec.ModelSpec` names them."""

OUTPUTS = tuple(DEPLOY.outputs)


class Port(NamedTuple):
    """An input or output as a library describes it."""

    dtype: str
    """numpy's name of the type, where it has one."""
    shape: tuple[Any, ...]
    """Integers; for a length that varies, what the library shows for it."""


def check_deploy_graph(
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    wanted: Collection[str],
    path: Path,
    *,
    error: type[FcnDeployError] = ModelError,
    remedy: str = "export it again",
) -> None:
    """Compare a graph's inputs and outputs with the contract of the deploy graph.

    Args:
        inputs: by name, all that the graph has.
        outputs: by name, all that the graph has.
        wanted: names of the outputs that there should be.
        path: the file, for the message.
        error: what is raised.
        remedy: what to do, for the message.

    Raises:
        error: a name, type or rank differs; says what was expected and found.
    """
    expected_outputs = {name: DEPLOY.outputs[name] for name in wanted}
    for what, ports, expected in (("input", inputs, DEPLOY.inputs), ("output", outputs, expected_outputs)):
        found = {name: (port.dtype, len(port.shape)) for name, port in ports.items()}
        stated = {name: (tensor.dtype, len(tensor.axes)) for name, tensor in expected.items()}
        if found != stated:
            raise error(
                f"{path} is not the deploy graph that its description promises: expected {what} "
                f"{_in_words(stated)}, found {_in_words(found)}; {remedy}"
            )
    channels = inputs[INPUT].shape[-1]
    if channels != 3:
        raise error(f"{path} takes frames of {channels} channels where 3 are expected; {remedy}")


def _in_words(ports: Mapping[str, tuple[str, int]]) -> str:
    return (
        ", ".join(f"{name} {dtype} of rank {rank}" for name, (dtype, rank) in sorted(ports.items())) or "none"
    )
