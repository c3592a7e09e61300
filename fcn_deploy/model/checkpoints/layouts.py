"""Known checkpoint layouts, told apart by their keys, and what each becomes.

* the public conversions of the authors' Caffe weights and whatever was trained from them
  (keys as in :mod:`fcn_deploy.model.fcn8s`), bare or inside ``model_state_dict``;
* torchvision's VGG16 classifier: a trunk, with fc6 and fc7 turned from Linear into Conv2d;
* our own safetensors, with their ModelSpec in the metadata;
* other safetensors with the keys of the first layout and, at best, a ``variant`` in the metadata.

The variant is not in the weights: the scales of the at-once network and the padding of 100 leave
no trace in a state_dict. It must be given, or known from the metadata or the file's MD5.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, md5_of, sha256_of
from fcn_deploy.model.checkpoints.describe import CheckpointInfo
from fcn_deploy.model.checkpoints.fitting import build, first, refuse_keys, sized
from fcn_deploy.model.checkpoints.native import bundled_path
from fcn_deploy.model.checkpoints.random import he_normal
from fcn_deploy.model.checkpoints.read import SUFFIXES, read
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s, find_variant
from fcn_deploy.spec import METADATA_KEY, ModelSpec

KNOWN_MD5 = {
    "de93e540ec79512f8770033849c8ae89": "fcn8s",
    "bfed4437e941fef58932891217fe6464": "fcn8s-atonce",
}
"""The published conversions of the authors' two Caffe models."""


TORCHVISION_MEAN_BGR = (255 * 0.406, 255 * 0.456, 255 * 0.485)


TORCHVISION_STD_BGR = (255 * 0.225, 255 * 0.224, 255 * 0.229)
"""torchvision's ImageNet statistics, from R, G, B in 0..1 to B, G, R in 0..255."""


_VGG16_FEATURES = {
    0: "conv1_1",
    2: "conv1_2",
    5: "conv2_1",
    7: "conv2_2",
    10: "conv3_1",
    12: "conv3_2",
    14: "conv3_3",
    17: "conv4_1",
    19: "conv4_2",
    21: "conv4_3",
    24: "conv5_1",
    26: "conv5_2",
    28: "conv5_3",
}


def load_checkpoint(
    source: str | Path,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    learned_upscore: bool | None = None,
    trained_on: str = "bgr",
) -> tuple[FCN8s, CheckpointInfo]:
    """Load a checkpoint of any known layout.

    Args:
        source: a file, or ``bundled``.
        variant: one of :data:`VARIANTS`; None where the file itself or its MD5 tells.
        num_classes: what the checkpoint must have; for a torchvision classifier, what the score
            layers get. None takes what is there.
        learned_upscore: True keeps the upscore weights of the file as transposed convolutions,
            False insists on fixed bilinear ones; None looks at the weights.
        trained_on: channel order of the frames that it was trained on, ``bgr`` or ``rgb``. The
            first convolution of an ``rgb`` one is turned, so that FCN8s always reads B, G, R.

    Returns:
        The float32 model in evaluation mode, and where it came from.

    Raises:
        UsageError: the file cannot be read, or the variant is neither given nor known.
        ModelError: the file is damaged, or its weights do not fit; keys are listed.
    """
    if trained_on not in ("bgr", "rgb"):
        raise UsageError(f"trained_on must be bgr or rgb, not {trained_on!r}")
    path = bundled_path() if str(source) == "bundled" else input_file(source, "checkpoint")
    name = "bundled" if str(source) == "bundled" else path.name
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is not a checkpoint: expected one of {', '.join(SUFFIXES)}")
    state, metadata = read(path)
    if METADATA_KEY in metadata:
        spec = ModelSpec.from_json(metadata[METADATA_KEY], str(path))
        name, options = spec.architecture.name, spec.architecture.options
        _same_variant(path, variant, name, "its own description")
        learned = options.get("learned_upscore") if learned_upscore is None else learned_upscore
        model = build(path, state, name, num_classes, learned, trained_on)
        spec = spec.replace(architecture=model.architecture)
        return model, CheckpointInfo(
            "safetensors", name, sha256_of(path), spec, spec.mean, spec.std, spec.note
        )
    if "features.0.weight" in state:
        return _from_torchvision(path, state, variant, num_classes)
    chosen, assumption = _which_variant(path, variant, metadata)
    model = build(path, state, chosen, num_classes, learned_upscore, trained_on)
    kind = "safetensors" if path.suffix == ".safetensors" else "checkpoint"
    return model, CheckpointInfo(kind, name, sha256_of(path), assumptions=(assumption,))


def _which_variant(path: Path, given: str | None, metadata: dict[str, str]) -> tuple[str, str]:
    """The variant and a sentence on how it is known."""
    if "variant" in metadata:
        _same_variant(path, given, metadata["variant"], "its metadata")
        return metadata["variant"], f"variant {metadata['variant']}, from the file's metadata"
    if known := KNOWN_MD5.get(md5_of(path)):
        _same_variant(path, given, known, f"the MD5 of the published {known} weights")
        return known, f"variant {known}, known by the file's MD5"
    if given is None:
        raise UsageError(
            f"{path} does not say which variant it is and is not a published file known by its MD5; "
            f"give --variant, one of {', '.join(VARIANTS)}"
        )
    atonce = "atonce" in path.stem.lower().replace("-", "").replace("_", "")
    if atonce and find_variant(given).pool4_scale == 1.0:
        raise ModelError(
            f"{path}: the file's name says at-once and --variant says {given}; the scales of the at-once "
            "network are not in the weights, so the wrong one loads and answers wrongly: give "
            "--variant fcn8s-atonce, or rename the file if its name is wrong"
        )
    return find_variant(given).name, f"variant {given}, as given; nothing in the file confirms it"


def _same_variant(path: Path, given: str | None, known: str, by: str) -> None:
    if given is not None and find_variant(given).name != known:
        raise ModelError(f"{path} is {known} by {by}, and --variant says {given}; leave --variant away")


def _from_torchvision(
    path: Path, state: dict[str, Tensor], variant: str | None, num_classes: int | None
) -> tuple[FCN8s, CheckpointInfo]:
    """A VGG16 classifier as the trunk; its score layers are seeded and untrained.

    Source: section 4.1 of the paper. A Linear layer over a 512x7x7 map is a 7x7 convolution whose
    weights are the same numbers in the same order.
    """
    if num_classes is None or variant is None:
        raise UsageError(
            f"{path} is a VGG16 classifier: it gives the trunk only, so --num-classes and --variant "
            "must be given"
        )
    wanted = {f"features.{i}.{kind}" for i in _VGG16_FEATURES for kind in ("weight", "bias")}
    wanted |= {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}
    if set(state) != wanted:
        lists = (("unknown", sorted(set(state) - wanted)), ("missing", sorted(wanted - set(state))))
        found = "; ".join(f"{len(keys)} {what}: {first(keys)}" for what, keys in lists if keys)
        raise ModelError(f"{path} is not torchvision's VGG16 (without batch normalisation): {found}")
    turned = {
        f"{name}.{kind}": state[f"features.{i}.{kind}"]
        for i, name in _VGG16_FEATURES.items()
        for kind in ("weight", "bias")
    }
    for index, name, size in ((0, "fc6", 7), (3, "fc7", 1)):
        weight = state[f"classifier.{index}.weight"]
        if weight.ndim == 2 and weight.shape[1] % size**2 == 0:
            weight = weight.reshape(len(weight), -1, size, size)
        turned[f"{name}.weight"] = weight
        turned[f"{name}.bias"] = state[f"classifier.{index}.bias"]
    model = sized(path, num_classes, variant, len(turned["conv1_1.weight"]), len(turned["fc6.weight"]))
    he_normal(model, 0, only=("score_fr", "score_pool4", "score_pool3"))
    refuse_keys(path, {**model.state_dict(), **turned}, model)
    turned["conv1_1.weight"] = turned["conv1_1.weight"].flip(1)  # torchvision reads R, G, B
    model.load_state_dict(turned, strict=False)
    info = CheckpointInfo(
        "torchvision",
        path.name,
        sha256_of(path),
        mean=TORCHVISION_MEAN_BGR,
        std=TORCHVISION_STD_BGR,
        note="score layers untrained: a start for training, labels mean nothing",
        assumptions=("trained on R, G, B with torchvision's statistics",),
    )
    return model.eval(), info
