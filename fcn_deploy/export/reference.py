"""A network as the reference of what is exported from it."""

from __future__ import annotations

import copy
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.export.parity import LogitArray, ParityReference
from fcn_deploy.model.deploy import reference_logits
from fcn_deploy.model.network import Network
from fcn_deploy.spec import ModelSpec


def reference_of(model: Network, spec: ModelSpec) -> ParityReference:
    """The plain network behind numpy preprocessing; in float64 too, where that is asked for.

    Args:
        model: the network, in float32.
        spec: how its frames are prepared, and what it is called.
    """
    network = str(spec.reference or spec.architecture.name)

    @cache
    def double() -> Network:
        return copy.deepcopy(model).double()

    def exact(images: NDArray[np.uint8]) -> LogitArray | None:
        try:
            return reference_logits(double(), spec, images)
        except Exception:  # whatever a user's code raises where it makes float32 tensors of its own
            return None

    name = f"plain {network} in PyTorch fp32 behind numpy preprocessing"
    return ParityReference(partial(reference_logits, model, spec), name, network, exact)
