"""Where weights came from, and the ModelSpec that they get."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fcn_deploy.classes import BUILTIN_CLASSES, ClassSet, default_palette, neutral_names
from fcn_deploy.errors import ModelError
from fcn_deploy.model.network import Network
from fcn_deploy.spec import CAFFE_MEAN_BGR, UNLABELLED, ModelSpec, Reference


@dataclass(frozen=True)
class CheckpointInfo:
    """Where weights came from and what was assumed about them."""

    kind: str
    """``checkpoint``, ``safetensors``, ``torchvision``, ``random`` or ``module``."""
    name: str
    """A bare file name, ``bundled`` or ``random``."""
    sha256: str | None
    known_by: str
    """How it is known which network it is: as :attr:`fcn_deploy.spec.Reference.known_by` says it."""
    spec: ModelSpec | None = None
    """The description inside the file, for our own safetensors."""
    classes: ClassSet | None = None
    """The classes in the metadata of other safetensors files."""
    mean: tuple[float, float, float] = CAFFE_MEAN_BGR
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    trained_on: str = "bgr"
    """Channel order of the frames that it was trained on."""
    starting: ModelSpec | None = None
    """A description that the caller gave, for a module of theirs."""
    min_side: int = 1
    """Rows and columns of the smallest frame that it takes."""
    key: str | None = None
    """Which of several sets of weights the caller chose."""
    note: str = ""
    assumptions: tuple[str, ...] = ()
    """Sentences to show: what was assumed because the file does not say it."""

    def link(self) -> dict[str, Any]:
        """This checkpoint as a link of :attr:`ModelSpec.provenance`."""
        link = {"kind": self.kind, "name": self.name, "sha256": self.sha256}
        return link if self.key is None else {**link, "key": self.key}


def in_memory(model: Network) -> CheckpointInfo:
    """What is known of a network that was not loaded from a file."""
    name = f"{model.architecture.name} in memory"
    return CheckpointInfo("module", name, None, "module", trained_on=model.channel_order)


def describe(model: Network, info: CheckpointInfo, **stated: Any) -> ModelSpec:
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
    if not given.get("palette"):
        given.pop("palette", None)
    names = given.get("classes") or _names(model, info)
    if len(names) != model.num_classes:
        raise ModelError(
            f"{info.name} has {model.num_classes} classes and {len(names)} names were given; "
            "give one name for each class, in the order of their ids"
        )
    known = next((found for found in BUILTIN_CLASSES.values() if found.names == names), ClassSet(names))
    given["reference"] = Reference(model.architecture.name, info.known_by, info.sha256)
    if info.spec is not None:
        if "classes" in given:
            given.setdefault("palette", known.palette or default_palette(len(names)))
        return info.spec.replace(**given).with_parent(**info.link())
    given |= {
        "architecture": model.architecture,
        "stride": model.stride,
        "size_multiple": model.size_multiple,
        "threshold": model.threshold,
        **dict.fromkeys(("min_height", "min_width"), info.min_side),
    }
    if info.starting is not None:
        if "classes" in given:
            given.setdefault("palette", known.palette or default_palette(len(names)))
        return _started(info.starting, given).with_parent(**info.link())
    defaults = {
        "classes": names,
        "palette": known.palette,
        "ignore_label": UNLABELLED if known.ignore_label is None else known.ignore_label,
        "mean": info.mean,
        "std": info.std,
        "note": info.note,
    }
    return ModelSpec(**{**defaults, **given}).with_parent(**info.link())


def _started(starting: ModelSpec, found: dict[str, Any]) -> ModelSpec:
    """A description that the caller gave, with what was found; what is another artefact's is left out."""
    limits = {name: max(found[name], getattr(starting, name)) for name in ("min_height", "min_width")}
    stride = starting.stride if found["stride"] is None else found["stride"]
    others = {"evidence": {}, "provenance": (), "fixed_shape": (None, None, None)}
    return starting.replace(**{**others, **found, **limits, "stride": stride})


def _names(model: Network, info: CheckpointInfo) -> tuple[str, ...]:
    """Names of the classes where none were given."""
    if info.starting is not None:
        return info.starting.classes
    if info.classes is not None:
        return info.classes.names
    return ("background", "foreground") if model.threshold is not None else neutral_names(model.num_classes)


def classes_in_metadata(
    metadata: dict[str, str], num_classes: int
) -> tuple[ClassSet | None, tuple[str, ...]]:
    """The classes in the metadata of a safetensors file, and a sentence where these cannot be used.

    The key is ``classes``; its value is a built-in set (``camvid``, ``voc``) or a JSON list of names.
    """
    text = metadata.get("classes")
    if text is None:
        return None, ()
    found = BUILTIN_CLASSES.get(text) or _json_names(text)
    if found is None or len(found.names) != num_classes:
        return None, (f"'classes' in its metadata is not {num_classes} names, and was not used",)
    return found, ()


def _json_names(text: str) -> ClassSet | None:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return ClassSet(tuple(names)) if listed else None
