"""The network of an export: from a known layout, from random weights, or around the user's module."""

from __future__ import annotations

import dataclasses

from torch import nn

from fcn_deploy.errors import UsageError
from fcn_deploy.export.request import FACTORY_WEIGHTS, Request
from fcn_deploy.files import input_file, sha256_of
from fcn_deploy.model.checkpoints import CheckpointInfo, in_memory, load_checkpoint, random_model
from fcn_deploy.model.checkpoints.layout import IMAGENET_MEAN_BGR, IMAGENET_STD_BGR
from fcn_deploy.model.checkpoints.networks import fill
from fcn_deploy.model.checkpoints.read import read
from fcn_deploy.model.factory import build_module, short_factory
from fcn_deploy.model.network import Network
from fcn_deploy.model.user import ModuleOptions, UserNetwork, own_copy


def open_network(request: Request) -> tuple[Network, CheckpointInfo]:
    """The network that was asked for, in float32, and where it came from.

    Raises:
        UsageError: what was stated cannot be used.
        ModelError: the file is damaged or does not fit, or a module fails.
    """
    if isinstance(request.checkpoint, Network):
        if request.trained_on not in (None, request.checkpoint.channel_order):
            raise UsageError("--trained-on is for checkpoint files; leave it out")
        request.refuse_module_options(request.checkpoint.architecture.name)
        return request.checkpoint, in_memory(request.checkpoint)
    if request.model is not None or isinstance(request.checkpoint, nn.Module):
        return _user_network(request)
    if request.in_memory:
        raise UsageError(
            "a checkpoint is a file, 'bundled', 'random' or a module, not a "
            f"{type(request.checkpoint).__name__}"
        )
    network, info = _random(request) if request.is_random else _from_file(request)
    request.refuse_module_options(network.architecture.name)
    return network, info


def _random(request: Request) -> tuple[Network, CheckpointInfo]:
    classes = request.num_classes if request.num_classes is not None else request.classes
    return random_model(
        21 if classes is None else classes,
        request.fcn8s["variant"] or "fcn8s",
        width=request.random["width"],
        fc_channels=request.random["fc_channels"],
        learned_upscore=bool(request.fcn8s["learned_upscore"]),
        seed=request.random["seed"] or 0,
    )


def _from_file(request: Request) -> tuple[Network, CheckpointInfo]:
    return load_checkpoint(
        request.checkpoint,
        num_classes=request.num_classes,
        trained_on=request.trained_on,
        key=request.key,
        **request.fcn8s,
    )


def _user_network(request: Request) -> tuple[Network, CheckpointInfo]:
    """A module of the user's, filled with the weights of a file where one is given."""
    module, factory = _built(request.checkpoint if request.model is None else request.model)
    trained_on = request.trained_on or "rgb"
    name = factory or f"{type(module).__name__} in memory"
    info = CheckpointInfo("module", name, None, "module", trained_on=trained_on)
    if not request.in_memory and request.checkpoint != FACTORY_WEIGHTS:
        # A module that the caller holds stays as it is.
        module = module if factory else own_copy(module)
        info = _filled(module, request, info)
    network = UserNetwork(module, _options(request, trained_on, factory))
    if request.num_classes not in (None, network.num_classes):
        raise UsageError(
            f"{name} has {network.num_classes} classes, and --num-classes says {request.num_classes}"
        )
    assumed = ("trained on R, G, B (--trained-on)",) if request.trained_on is None else ()
    return network, dataclasses.replace(
        info,
        starting=request.spec,
        mean=IMAGENET_MEAN_BGR,
        std=IMAGENET_STD_BGR,
        min_side=network.smallest(),
        assumptions=(*info.assumptions, *assumed),
    )


def _built(model: object) -> tuple[nn.Module, str | None]:
    """A module, and how its factory is called where it has one."""
    if isinstance(model, str):
        return build_module(model), short_factory(model)
    if isinstance(model, nn.Module):
        return model, None
    raise UsageError(f"model is a module, package.module:function or file.py:function, not {model!r}")


def _options(request: Request, trained_on: str, factory: str | None) -> ModuleOptions:
    """What was stated about a module; what was not, its starting description may say."""
    stated = {key: value for key, value in request.module.items() if value is not None}
    if request.spec is not None:
        stated = {"size_multiple": request.spec.size_multiple, "threshold": request.spec.threshold, **stated}
    return ModuleOptions(channel_order=trained_on, factory=factory, **stated)


def _filled(module: nn.Module, request: Request, info: CheckpointInfo) -> CheckpointInfo:
    """Put the weights of the request's file into a module, in place; returns where they came from."""
    path = input_file(request.checkpoint, "checkpoint")
    stored = read(path, request.key)
    state = stored.state
    if state.keys().isdisjoint(module.state_dict()):  # the module's own names may begin with that prefix
        state = {f"{stored.prefix}{name}": value for name, value in state.items()}
    fill(module, state, path, type(module).__name__)
    name = f"{path.name} in {info.name}"
    return dataclasses.replace(
        info, name=name, sha256=sha256_of(path), key=request.key, assumptions=stored.assumptions
    )
