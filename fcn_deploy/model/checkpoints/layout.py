"""What a known checkpoint layout is: the type of the entries of :data:`..layouts.LAYOUTS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.read import StoredWeights
from fcn_deploy.model.fcn8s import find_variant
from fcn_deploy.model.network import Network
from fcn_deploy.spec import CAFFE_MEAN_BGR, IMAGENET_MEAN, IMAGENET_STD, ModelSpec, Triple

Keys = dict[str, Tensor]
"""A state_dict by the keys of :mod:`fcn_deploy.model.fcn8s`."""

IMAGENET_MEAN_BGR: Triple = (255 * IMAGENET_MEAN[0], 255 * IMAGENET_MEAN[1], 255 * IMAGENET_MEAN[2])
IMAGENET_STD_BGR: Triple = (255 * IMAGENET_STD[0], 255 * IMAGENET_STD[1], 255 * IMAGENET_STD[2])
"""ImageNet's statistics as a spec has them: for frames of 0 to 255."""

ON_IMAGENET = "trained on R, G, B with ImageNet's statistics"


@dataclass(frozen=True)
class Stated:
    """What the caller of :func:`..layouts.load_checkpoint` stated about the network."""

    variant: str | None
    num_classes: int | None
    learned_upscore: bool | None
    trained_on: str = "bgr"
    """Channel order of the frames; what the layout says, where the caller did not state it."""


@dataclass(frozen=True)
class Opened:
    """The network in a checkpoint."""

    network: Network
    known_by: str
    """As :attr:`fcn_deploy.spec.Reference.known_by` says it."""
    spec: ModelSpec | None = None
    """The description inside the file, for our own safetensors."""
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One known layout."""

    recognises: Callable[[StoredWeights], bool]
    """Whether a file has this layout, by its keys or metadata."""
    open: Callable[[StoredWeights, Stated], Opened]
    """Keys -> a network. Raises ModelError or UsageError where the file is not complete, or does not fit what
    was stated."""
    kind: str | None = None
    """:attr:`CheckpointInfo.kind`; None takes it from the kind of file."""
    trained_on: str | None = None
    """Channel order of the frames that these networks were trained on; None where it must be stated."""
    mean: Triple = CAFFE_MEAN_BGR
    """B, G, R, subtracted from frames of 0..255."""
    std: Triple = (1.0, 1.0, 1.0)
    """B, G, R; frames are divided by it after the mean."""
    note: str = ""
    """Shown wherever the model is named."""
    assumptions: tuple[str, ...] = ()
    """What is assumed about the frames that these networks were trained on, in sentences; left out where the
    caller states another channel order."""


def same_variant(path: Path, given: str | None, known: str, by: str) -> None:
    """Refuse a stated variant that is not the one that the file has.

    Raises:
        ModelError: it is another one, or there is none of that name.
    """
    if given is not None and given != known:
        find_variant(given)
        raise ModelError(f"{path} is {known} by {by}, and --variant says {given}; leave out --variant")
