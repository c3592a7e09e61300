"""Where weights came from, and the ModelSpec that they get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE, default_classes, default_palette
from fcn_deploy.errors import ModelError
from fcn_deploy.model.fcn8s import FCN8s
from fcn_deploy.spec import CAFFE_MEAN_BGR, UNLABELLED, ModelSpec


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
        architecture=model.architecture,
        stride=model.stride,
        size_multiple=model.size_multiple,
        **{**defaults, **given},
    ).with_parent(**info.link())
