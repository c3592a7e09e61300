"""The networks that this package can build: a name and a state_dict -> a network.

A new network is one entry of :data:`BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.fitting import build
from fcn_deploy.model.checkpoints.keys import refuse_keys
from fcn_deploy.model.checkpoints.tidying import is_left_out, shared_prefix
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s
from fcn_deploy.model.network import Network
from fcn_deploy.model.torchvision_models import MODELS, TorchvisionNetwork, counts, score_key
from fcn_deploy.spec import ModelSpec

State = Mapping[str, Tensor]


def rebuild(path: Path, state: State, spec: ModelSpec) -> Network:
    """The network that a description names, filled with weights.

    Args:
        path: the file that they come from, for messages.
        state: the weights by key.
        spec: the description.

    Raises:
        ModelError: the network is unknown, or the weights do not fit it.
    """
    builder = BUILDERS.get(spec.architecture.name)
    if builder is None:
        raise ModelError(
            f"{path} holds weights of {spec.architecture.name}, which this version cannot build; it knows "
            f"{', '.join(BUILDERS)}"
        )
    return builder(path, state, spec)


def can_build(network: Network) -> bool:
    """Whether the weights and the description of a network are enough to build it again."""
    return isinstance(network, (FCN8s, TorchvisionNetwork))


def fill(module: nn.Module, state: State, path: Path, name: str) -> None:
    """Put weights into a module, in place.

    Counters of training steps may be missing, and so may a wrapper's word before all of its names (``model.``
    of a module that holds the network as ``self.model``), which reading a file takes off.

    Args:
        module: its state_dict says what is needed.
        state: the weights by its keys.
        path: the file that they come from, for messages.
        name: of the module, for messages.

    Raises:
        ModelError: keys or shapes differ; lists the first few.
    """
    expected = module.state_dict()
    prefix = shared_prefix(expected)
    given = {prefix + key: value for key, value in state.items()}
    needed = {
        key: value
        for key, value in expected.items()
        if key in given or not is_left_out(key.removeprefix(prefix))
    }
    refuse_keys(path, given, needed, name)
    module.load_state_dict({**expected, **given})


def torchvision_network(path: Path, state: State, name: str) -> TorchvisionNetwork:
    """One of torchvision's models, filled with weights, in evaluation mode.

    Raises:
        ModelError: they do not fit; keys are listed.
    """
    score = score_key(name)
    if score not in state:
        raise ModelError(f"{path} does not fit {name}: {score} is missing")
    if not 2 <= (classes := len(state[score])) <= 255:
        raise ModelError(f"{path} has {classes} classes; 2 to 255 are possible (255 labels ignored pixels)")
    network = TorchvisionNetwork(name, classes)
    fill(network.module, {key: value for key, value in state.items() if counts(key)}, path, name)
    return network.eval()


def _fcn8s(path: Path, state: State, spec: ModelSpec) -> Network:
    learned = spec.architecture.options.get("learned_upscore")
    return build(path, dict(state), spec.architecture.name, spec.num_classes, learned, "bgr")


def _torchvision(path: Path, state: State, spec: ModelSpec) -> Network:
    return torchvision_network(path, state, spec.architecture.name)


BUILDERS: Mapping[str, Callable[[Path, State, ModelSpec], Network]] = {
    **dict.fromkeys(VARIANTS, _fcn8s),
    **dict.fromkeys(MODELS, _torchvision),
}
"""By the name of the architecture."""
