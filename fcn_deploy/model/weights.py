"""Checkpoints -> FCN8s, and FCN8s -> our own safetensors.

A checkpoint is untrusted input: pickles are read with ``weights_only=True``, which runs no code,
and safetensors hold none. Four layouts are known, told apart by their keys:

* the public conversions of the authors' Caffe weights and whatever was trained from them
  (keys as in :mod:`fcn_deploy.model.fcn8s`), bare or inside ``model_state_dict``;
* torchvision's VGG16 classifier: a trunk, with fc6 and fc7 turned from Linear into Conv2d;
* our own safetensors, with their ModelSpec in the metadata;
* other safetensors with the keys of the first layout and, at best, a ``variant`` in the metadata.

The variant is not in the weights: the scales of the at-once network and the padding of 100 leave
no trace in a state_dict. It must be given, or known from the metadata or the file's MD5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, md5_of, sha256_of, write_bytes
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s, Upscore, bilinear_kernel, find_variant
from fcn_deploy.spec import (
    CAFFE_MEAN_BGR,
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    METADATA_KEY,
    UNLABELLED,
    ModelSpec,
    default_classes,
    default_palette,
)

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
_SIZING = ("conv1_1.weight", "fc6.weight", "score_fr.weight")
_UPSCORES = ("upscore2.weight", "upscore_pool4.weight", "upscore8.weight")
_WRAPPERS = ("model_state_dict", "state_dict", "model")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class CheckpointInfo:
    """Where weights came from and what was assumed about them."""

    kind: str
    """``checkpoint``, ``safetensors``, ``torchvision`` or ``random``."""
    name: str
    """A bare file name, ``bundled`` or ``random``."""
    sha256: str | None
    spec: ModelSpec | None = None
    """The description inside the file, for our own safetensors."""
    mean: tuple[float, float, float] = CAFFE_MEAN_BGR
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    note: str = ""
    assumptions: tuple[str, ...] = ()
    """Sentences to show: what was taken for granted because the file does not say it."""

    def link(self) -> dict[str, Any]:
        """This checkpoint as a link of :attr:`ModelSpec.provenance`."""
        return {"kind": self.kind, "name": self.name, "sha256": self.sha256}


def bundled_path() -> Path:
    """The weights inside the package: fcn8s-lite for CamVid's 11 classes."""
    return Path(__file__).parent / "bundled" / "fcn8s-lite-camvid.safetensors"


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
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path} is not a checkpoint: expected one of {', '.join(_SUFFIXES)}")
    state, metadata = _read(path)
    if METADATA_KEY in metadata:
        spec = ModelSpec.from_json(metadata[METADATA_KEY], str(path))
        _same_variant(path, variant, spec.variant, "its own description")
        learned = spec.learned_upscore if learned_upscore is None else learned_upscore
        model = _build(path, state, spec.variant, num_classes, learned, trained_on)
        spec = spec.replace(learned_upscore=model.learned_upscore)
        return model, CheckpointInfo(
            "safetensors", name, sha256_of(path), spec, spec.mean, spec.std, spec.note
        )
    if "features.0.weight" in state:
        return _from_torchvision(path, state, variant, num_classes)
    chosen, assumption = _which_variant(path, variant, metadata)
    model = _build(path, state, chosen, num_classes, learned_upscore, trained_on)
    kind = "safetensors" if path.suffix == ".safetensors" else "checkpoint"
    return model, CheckpointInfo(kind, name, sha256_of(path), assumptions=(assumption,))


def load_safetensors(path: str | Path) -> tuple[FCN8s, ModelSpec]:
    """Load an artefact that :func:`save_safetensors` wrote.

    Raises:
        UsageError: the file cannot be read.
        ModelError: it is damaged, or is a plain checkpoint without a model description.
    """
    found = input_file(path, "model")
    if found.suffix == ".safetensors":
        state, metadata = _read(found)
        if METADATA_KEY in metadata:
            spec = ModelSpec.from_json(metadata[METADATA_KEY], str(path))
            return _build(found, state, spec.variant, spec.num_classes, spec.learned_upscore, "bgr"), spec
    raise ModelError(
        f"{path} holds weights but no model description; make an artefact of it first: "
        f"fcn-deploy export --weights {path} --variant ... -o model.safetensors"
    )


def save_safetensors(model: FCN8s, spec: ModelSpec, path: str | Path, *, dtype: str = "fp32") -> None:
    """Write weights and description as one file, atomically.

    Args:
        model: the network.
        spec: its description, stored under :data:`METADATA_KEY`.
        path: ends in ``.safetensors``.
        dtype: ``fp32``, or ``fp16`` to store half the bytes (the weights are rounded).

    Raises:
        UsageError: the file cannot be written.
        ModelError: a weight does not fit into fp16.
    """
    if dtype not in ("fp32", "fp16"):
        raise UsageError(f"weights are saved as fp32 or fp16, not {dtype!r}")
    target = torch.float16 if dtype == "fp16" else torch.float32
    tensors = {k: v.detach().to(target).contiguous() for k, v in model.state_dict().items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{key} has values that {dtype} cannot hold; save it as fp32")
    data = safetensors.torch.save(tensors, metadata={METADATA_KEY: spec.to_json()})
    write_bytes(path, data)


def random_model(
    num_classes: int = 21,
    variant: str = "fcn8s",
    *,
    width: int | None = None,
    fc_channels: int | None = None,
    learned_upscore: bool = False,
    seed: int = 0,
) -> tuple[FCN8s, CheckpointInfo]:
    """Seeded He-normal weights, score layers included: something to export, nothing to believe.

    Raises:
        ModelError: a number is out of range or the variant is unknown.
    """
    model = FCN8s(num_classes, variant, width=width, fc_channels=fc_channels, learned_upscore=learned_upscore)
    _he_normal(model, seed)
    name = f"random (seed {seed})"
    return model.eval(), CheckpointInfo("random", name, None, note="random weights: labels mean nothing")


def describe(model: FCN8s, info: CheckpointInfo, **stated: Any) -> ModelSpec:
    """The ModelSpec of loaded weights: what the file says, then what was stated, then defaults.

    Args:
        model: the network.
        info: where it came from.
        stated: fields of :class:`ModelSpec` that the user gave; None stands for 'not given'.

    Returns:
        A description whose nearest parent is the checkpoint.

    Raises:
        ModelError: a field is out of range, or the number of classes differs.
    """
    given = {key: value for key, value in stated.items() if value is not None}
    names = given.get("classes", default_classes(model.num_classes))
    if len(names) != model.num_classes:
        raise ModelError(
            f"{info.name} has {model.num_classes} classes and {len(names)} names were given; "
            "give one name for each class, in the order of their ids"
        )
    if info.spec is not None:
        if "classes" in given and "palette" not in given:
            given["palette"] = default_palette(len(names))
        return info.spec.replace(**given).with_parent(**info.link())
    palette = CAMVID_PALETTE if names == CAMVID_CLASSES else ()
    defaults = {
        "classes": names,
        "palette": palette,
        "ignore_label": 11 if names == CAMVID_CLASSES else UNLABELLED,
        "mean": info.mean,
        "std": info.std,
        "note": info.note,
    }
    return ModelSpec(
        variant=model.variant.name,
        width=model.width,
        fc_channels=model.fc_channels,
        learned_upscore=model.learned_upscore,
        **{**defaults, **given},
    ).with_parent(**info.link())


@torch.no_grad()
def _he_normal(model: FCN8s, seed: int, only: tuple[str, ...] = ()) -> None:
    """Fill convolutions (He et al. 2015, section 2.2) and, lightly, their biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, Upscore)) or (only and name not in only):
            continue
        fan_in = math.prod(module.weight.shape[1:])
        noise = torch.randn(module.weight.shape, generator=generator)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.weight.copy_(noise * math.sqrt(2 / fan_in))
            module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
        elif model.learned_upscore:
            module.weight.add_(noise * 0.02)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The bare tensors of a file and its metadata. Raises ModelError where it is damaged."""
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, framework="pt") as opened:
                state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
        except (safetensors.SafetensorError, OSError) as exc:
            raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
    else:
        state, metadata = _unwrap(path, _unpickle(path)), {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }, metadata


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises many classes for damaged or unsafe files
        if _is_pickle(path) and ("weights_only" in str(exc) or "Weights only" in str(exc)):
            raise ModelError(
                f"{path} holds more than tensors and was not loaded, because a pickle can run any "
                "code; save its state_dict() alone, or as safetensors, and use that"
            ) from exc
        raise ModelError(
            f"{path} is not a complete PyTorch checkpoint ({type(exc).__name__}); copy it again"
        ) from exc


def _is_pickle(path: Path) -> bool:
    """Whether it begins as torch's zip archives or as pickles do; a saved web page does not."""
    with open(path, "rb") as stream:
        return stream.read(2).startswith((b"PK", b"\x80"))


def _unwrap(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The state_dict, bare or one level deep."""
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items())
    ):
        raise ModelError(
            f"{path} does not hold a state_dict: expected tensors by name, bare or under one of "
            f"{', '.join(_WRAPPERS)}, found {_describe(loaded)}"
        )
    return dict(loaded)


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, list(loaded)[:5])) or '(none)'}"
    return f"a {type(loaded).__name__}"


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


def _build(
    path: Path,
    state: dict[str, Tensor],
    variant: str,
    num_classes: int | None,
    learned_upscore: bool | None,
    trained_on: str,
) -> FCN8s:
    """An FCN8s of the sizes that the weights have, filled with them."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if any(len(shapes.get(key, ())) != 4 for key in _SIZING):
        _refuse_keys(path, state, _sized(path, 21, variant, 1, 1), sized=False)
    found = shapes["score_fr.weight"][0]
    if num_classes not in (None, found):
        raise ModelError(f"{path} has {found} classes, and --num-classes says {num_classes}")
    _sized(path, min(found, 256), variant, 1, 1)  # an absurd number is refused before it costs memory
    kernels = {key: bilinear_kernel(found, 16 if "8" in key else 4) for key in _UPSCORES}
    fixed = all(_equal(state.get(key, kernel), kernel) for key, kernel in kernels.items())
    if learned_upscore is False and not fixed:
        raise ModelError(f"{path}: its upscore weights are learned, not bilinear; they cannot be fixed")
    model = _sized(
        path,
        found,
        variant,
        shapes["conv1_1.weight"][0],
        shapes["fc6.weight"][0],
        learned_upscore=(not fixed) if learned_upscore is None else learned_upscore,
    )
    state = {**kernels, **state}
    if fixed and not model.learned_upscore:
        state |= kernels  # what was rounded on the way is exact again, as the deploy graph has it
    _refuse_keys(path, state, model)
    if trained_on == "rgb":
        state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    model.load_state_dict(state)
    return model.eval()


def _sized(
    path: Path, classes: int, variant: str, width: int, fc: int, *, learned_upscore: bool = False
) -> FCN8s:
    """An FCN8s of these sizes; what is wrong with them is said of the file they come from."""
    try:
        return FCN8s(classes, variant, width=width, fc_channels=fc, learned_upscore=learned_upscore)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-4)


def _refuse_keys(path: Path, state: dict[str, Tensor], model: FCN8s, *, sized: bool = True) -> None:
    """Raise one ModelError that lists the first few unknown, missing and misshapen keys.

    Where the keys that give the sizes are themselves missing or damaged (``sized`` is false), only
    the number of dimensions can be compared.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    unknown = [key for key in state if key not in wanted]
    missing = [key for key in wanted if key not in state]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(wanted[key])}"
        for key in wanted
        if key in state
        and (tuple(state[key].shape) != wanted[key] if sized else state[key].ndim != len(wanted[key]))
    ]
    lists = (("unknown", unknown), ("missing", missing), ("misshapen", misshapen))
    complaints = [f"{len(keys)} {what}: {_first(keys)}" for what, keys in lists if keys]
    if complaints:
        raise ModelError(f"{path} does not fit {model.variant.name}: {'; '.join(complaints)}")
    for key, value in state.items():
        if not value.is_floating_point():
            raise ModelError(f"{path}: {key} holds {value.dtype}; weights must be floating point")
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: {key} holds NaN or infinite values; the training run diverged")


def _first(keys: list[str], count: int = 4) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")


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
        found = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in lists if keys)
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
    model = _sized(path, num_classes, variant, len(turned["conv1_1.weight"]), len(turned["fc6.weight"]))
    _he_normal(model, 0, only=("score_fr", "score_pool4", "score_pool3"))
    _refuse_keys(path, {**model.state_dict(), **turned}, model)
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
