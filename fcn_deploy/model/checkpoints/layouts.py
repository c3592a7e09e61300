"""Known checkpoint layouts as a table: how each is recognised, and what it becomes.

A new layout is one entry of :data:`LAYOUTS` and the function that makes a network of its keys.

A state_dict does not say the variant: the scales of the at-once network and the padding of 100
are not in it. The variant must be given, or known from the metadata or the file's MD5.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, md5_of, sha256_of
from fcn_deploy.model import bundled_path
from fcn_deploy.model.checkpoints.describe import CheckpointInfo, classes_in_metadata
from fcn_deploy.model.checkpoints.fcn_layouts import FCN_LAYOUTS
from fcn_deploy.model.checkpoints.fitting import build, sized
from fcn_deploy.model.checkpoints.keys import first, refuse_names
from fcn_deploy.model.checkpoints.layout import (
    IMAGENET_MEAN_BGR,
    IMAGENET_STD_BGR,
    ON_IMAGENET,
    Keys,
    Layout,
    Opened,
    Stated,
    same_variant,
)
from fcn_deploy.model.checkpoints.networks import rebuild, torchvision_network
from fcn_deploy.model.checkpoints.random import he_normal
from fcn_deploy.model.checkpoints.read import StoredWeights, read
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s, find_variant
from fcn_deploy.model.network import Network
from fcn_deploy.model.torchvision_models import AUXILIARY, name_of
from fcn_deploy.spec import METADATA_KEY, Architecture, ModelSpec


def load_checkpoint(
    source: str | Path,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    learned_upscore: bool | None = None,
    trained_on: str | None = None,
    key: str | None = None,
) -> tuple[Network, CheckpointInfo]:
    """Load a checkpoint of any known layout.

    Args:
        source: a file, or ``bundled``.
        variant: one of :data:`VARIANTS`; None where it is known from the file or its MD5.
        num_classes: what the checkpoint must have; for a torchvision classifier, what the score
            layers get. None uses the number in the file.
        learned_upscore: True keeps the upscore weights of the file as transposed convolutions,
            False requires fixed bilinear ones; None decides by the weights.
        trained_on: channel order of the frames that it was trained on, ``bgr`` or ``rgb``; None uses the
            layout's, or ``bgr``. Where the network here reads the other order, the input channels of its
            first convolution are reversed.
        key: which set of weights, where the file holds several, as
            :func:`fcn_deploy.model.checkpoints.read.read` takes it.

    Returns:
        The float32 model in evaluation mode, and where it came from.

    Raises:
        UsageError: the file cannot be read, or the variant is neither given nor known.
        ModelError: the file is damaged, or its weights do not fit; keys are listed.
    """
    if trained_on not in (None, "bgr", "rgb"):
        raise UsageError(f"trained_on must be bgr or rgb, not {trained_on!r}")
    path = bundled_path() if str(source) == "bundled" else input_file(source, "checkpoint")
    stored = read(path, key)
    layout = _layout_of(stored)
    order = trained_on or layout.trained_on or "bgr"
    found = layout.open(stored, Stated(variant, num_classes, learned_upscore, order))
    if found.spec is not None and trained_on == "rgb":
        raise UsageError(f"{path} has a description with its colour order; leave out --trained-on")
    model = found.network
    classes, unused = classes_in_metadata(stored.metadata, model.num_classes)
    spec = found.spec and found.spec.replace(architecture=model.architecture)
    assumed = layout.assumptions if trained_on in (None, layout.trained_on) else ()
    return model, CheckpointInfo(
        kind=layout.kind or stored.container,
        name="bundled" if str(source) == "bundled" else path.name,
        sha256=sha256_of(path),
        known_by=found.known_by,
        spec=spec,
        classes=classes,
        mean=spec.mean if spec else layout.mean,
        std=spec.std if spec else layout.std,
        trained_on=order,
        key=key,
        note=spec.note if spec else layout.note,
        assumptions=(*stored.assumptions, *found.assumptions, *assumed, *unused),
    )


def _layout_of(stored: StoredWeights) -> Layout:
    """The first layout that recognises a file.

    Raises:
        ModelError: none does.
    """
    layout = next((known for known in LAYOUTS if known.recognises(stored)), None)
    if layout is not None:
        return layout
    public = FCN8s(2, width=1, fc_channels=1).state_dict()
    if any(key in stored.state for key in public):
        return PUBLIC  # what is missing and what is unknown is listed
    raise ModelError(
        f"{stored.path} has no known layout (its {len(stored.state)} keys begin with "
        f"{first(list(stored.state))}); name the code that builds its network: --model FILE.py:FACTORY "
        f"--weights {stored.path}"
    )


# Our own safetensors


def _native(stored: StoredWeights, stated: Stated) -> Opened:
    spec = ModelSpec.from_json(stored.metadata[METADATA_KEY], str(stored.path))
    name, options = spec.architecture.name, dict(spec.architecture.options)
    same_variant(stored.path, stated.variant, name, "its own description")
    _same_classes(stored.path, stated.num_classes, spec.num_classes)
    if stated.learned_upscore is not None:
        options["learned_upscore"] = stated.learned_upscore
    known_by = "description" if spec.reference is None else spec.reference.known_by
    asked = spec.replace(architecture=Architecture(name, options))
    return Opened(rebuild(stored.path, stored.state, asked), known_by, spec)


def _same_classes(path: Path, stated: int | None, found: int) -> None:
    if stated not in (None, found):
        raise ModelError(f"{path} has {found} classes, and --num-classes says {stated}")


# The public conversions of the authors' Caffe weights, and checkpoints trained from them


KNOWN_MD5 = {
    "de93e540ec79512f8770033849c8ae89": "fcn8s",
    "bfed4437e941fef58932891217fe6464": "fcn8s-atonce",
}
"""The published conversions of the authors' two Caffe models."""


def _public(stored: StoredWeights, stated: Stated) -> Opened:
    variant, known_by, assumption = _which_variant(stored, stated.variant)
    return Opened(_fcn8s(stored, stored.state, variant, stated), known_by, assumptions=(assumption,))


def _fcn8s(stored: StoredWeights, state: Keys, variant: str, stated: Stated) -> Network:
    """An FCN-8s of these weights, as the user stated it."""
    return build(stored.path, state, variant, stated.num_classes, stated.learned_upscore, stated.trained_on)


def _which_variant(stored: StoredWeights, given: str | None) -> tuple[str, str, str]:
    """The variant, how it is known, and the same in a sentence."""
    path = stored.path
    if said := stored.metadata.get("variant"):
        same_variant(path, given, said, "its metadata")
        return said, "metadata", f"variant {said}, from the file's metadata"
    if known := KNOWN_MD5.get(md5_of(path)):
        same_variant(path, given, known, f"the MD5 of the published {known} weights")
        return known, "md5", f"variant {known}, known by the file's MD5"
    if given is None:
        raise UsageError(
            f"{path} does not say which variant it is and is not a published file known by its MD5; "
            f"give --variant, one of {', '.join(VARIANTS)}"
        )
    atonce = "atonce" in path.stem.lower().replace("-", "").replace("_", "")
    if atonce and find_variant(given).pool4_scale == 1.0:
        raise ModelError(
            f"{path}: the file's name says at-once and --variant says {given}; the scales of the at-once "
            "network are not in the weights, so the wrong variant loads and gives wrong labels: give "
            "--variant fcn8s-atonce, or rename the file if its name is wrong"
        )
    name = find_variant(given).name
    return name, "stated", f"variant {given}, as given; nothing in the file confirms it"


# torchvision's VGG16 classifier


_VGG16_FEATURES = {
    **{0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3"},
    **{17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"},
}

_VGG16_CLASSIFIER = {0: ("fc6", 7), 3: ("fc7", 1)}
"""Linear layer -> our convolution and the size of its kernel."""


def _torchvision_vgg16(stored: StoredWeights, stated: Stated) -> Opened:
    """A VGG16 classifier as the trunk; its score layers are seeded and untrained.

    Source: section 4.1 of the paper. A Linear layer over a 512x7x7 map is a 7x7 convolution whose
    weights are the same numbers in the same order.
    """
    if stated.num_classes is None or stated.variant is None:
        raise UsageError(
            f"{stored.path} is a VGG16 classifier: it gives the trunk only, so --num-classes and --variant "
            "must be given"
        )
    _require_vgg16_keys(stored)
    trunk: Keys = {}
    for kind in ("weight", "bias"):
        trunk |= {
            f"{name}.{kind}": stored.state[f"features.{i}.{kind}"] for i, name in _VGG16_FEATURES.items()
        }
        for i, (name, size) in _VGG16_CLASSIFIER.items():
            trunk[f"{name}.{kind}"] = _as_convolution(stored.state[f"classifier.{i}.{kind}"], size)
    width, fc = (max((1, *trunk[f"{name}.bias"].shape[:1])) for name in ("conv1_1", "fc6"))
    model = sized(stored.path, stated.num_classes, stated.variant, width, fc)
    he_normal(model, 0, only=("score_fr", "score_pool4", "score_pool3"))
    state = {**model.state_dict(), **trunk}
    return Opened(_fcn8s(stored, state, stated.variant, stated), "stated")


def _require_vgg16_keys(stored: StoredWeights) -> None:
    wanted = {f"features.{i}.{kind}" for i in _VGG16_FEATURES for kind in ("weight", "bias")}
    wanted |= {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}
    name = "torchvision's VGG16 (without batch normalisation)"
    refuse_names(stored.path, sorted(stored.state), sorted(wanted), name)


def _as_convolution(tensor: Tensor, size: int) -> Tensor:
    """The weights of a Linear layer as those of a convolution; anything else as it is."""
    if tensor.ndim != 2 or tensor.shape[1] % size**2:
        return tensor
    return tensor.reshape(len(tensor), tensor.shape[1] // size**2, size, size)


# torchvision's segmentation models


def _torchvision(stored: StoredWeights, stated: Stated) -> Opened:
    name = name_of(stored.state)
    assert name is not None, "the layout was recognised by its keys"
    if stated.variant is not None or stated.learned_upscore is not None:
        option = "--variant" if stated.variant is not None else "--learned-upscore"
        raise UsageError(
            f"{stored.path} is torchvision's {name} by its keys; {option} is for FCN-8s, leave it out"
        )
    state = stored.state if stated.trained_on == "rgb" else _reversed_stem(stored.state)
    network = torchvision_network(stored.path, state, name)
    _same_classes(stored.path, stated.num_classes, network.num_classes)
    assumptions = [f"torchvision's {name}, known by its keys"]
    if any(key.startswith(AUXILIARY) for key in stored.state):
        assumptions.append("its auxiliary head is for training, and was left out")
    return Opened(network, "keys", assumptions=tuple(assumptions))


def _reversed_stem(state: Keys) -> Keys:
    """The input channels of the first convolution in reverse."""
    stem = next(key for key, value in state.items() if value.ndim == 4)
    return {**state, stem: state[stem].flip(1)}


PUBLIC = Layout(recognises=lambda stored: "conv1_1.weight" in stored.state, open=_public)

LAYOUTS = (
    Layout(recognises=lambda stored: METADATA_KEY in stored.metadata, open=_native),
    Layout(
        recognises=lambda stored: "features.0.weight" in stored.state,
        open=_torchvision_vgg16,
        kind="torchvision",
        trained_on="rgb",
        mean=IMAGENET_MEAN_BGR,
        std=IMAGENET_STD_BGR,
        note="score layers untrained: a start for training, labels mean nothing",
        assumptions=(ON_IMAGENET,),
    ),
    Layout(
        recognises=lambda stored: name_of(stored.state) is not None,
        open=_torchvision,
        trained_on="rgb",
        mean=IMAGENET_MEAN_BGR,
        std=IMAGENET_STD_BGR,
        assumptions=(ON_IMAGENET,),
    ),
    *FCN_LAYOUTS,
    PUBLIC,
)
"""Every known layout; the first that recognises a file converts it."""
