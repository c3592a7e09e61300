"""ModelSpec: the one description of a model, carried by every artefact made from it.

It is stored as one JSON string: in an ONNX file under :data:`METADATA_KEY` of ``metadata_props``,
in a safetensors file under the same key of its metadata, and beside an engine as
``NAME.engine.json``. Everything that has to know how a frame is prepared or what a label means
reads it from there, so that nothing is repeated, and nothing can differ, on the device.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from fcn_deploy.classes import Color, default_palette
from fcn_deploy.errors import ModelError

METADATA_KEY = "fcn_deploy.spec"


SCHEMA_VERSION = 1


UNLABELLED = 255
"""The label reserved for ignored pixels; a class id never takes it."""


CAFFE_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
"""Mean of the ILSVRC training frames per channel B, G, R, as the authors' Caffe layers use it."""


PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")


OUTPUTS = ("labels", "confidence", "logits")


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects, what it answers, and where it comes from.

    Raises:
        ModelError: a field is out of range; the message names it.
    """

    classes: tuple[str, ...]
    """Names by class id; 2 to 255 of them."""
    variant: str
    """``fcn8s``, ``fcn8s-atonce``, ``fcn8s-same`` or ``fcn8s-lite``."""
    width: int = 64
    """Channels of conv1."""
    fc_channels: int = 4096
    """Channels of fc6 and fc7."""
    learned_upscore: bool = False
    palette: tuple[Color, ...] = ()
    """One R, G, B colour (0 to 255) a class; filled in where left empty."""
    color_order: str = "bgr"
    """Channel order of the frames handed in: ``bgr`` (what OpenCV gives) or ``rgb``."""
    mean: tuple[float, float, float] = CAFFE_MEAN_BGR
    """Subtracted from 0..255 frames. Always in the order B, G, R, whatever ``color_order`` is."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Frames are divided by it after the mean is subtracted; order B, G, R."""
    ignore_label: int = UNLABELLED
    """Label value of pixels that are left out of training and scoring (11 for CamVid)."""
    max_height: int = 4096
    max_width: int = 4096
    """The largest frame that is accepted; the smallest is 1x1."""
    outputs: tuple[str, ...] = ("labels",)
    precision: str = "fp32"
    """Declared precision of the trunk's convolutions: one of :data:`PRECISIONS`."""
    note: str = ""
    """Shown wherever the model is named, such as the limits of a model trained on little data."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """What was verified when the artefact was made, by kind: ``parity``, ``fp16_range``."""
    provenance: tuple[dict[str, Any], ...] = ()
    """The chain back to the checkpoint, nearest parent first.

    Each link: ``kind`` (checkpoint, safetensors, onnx), ``name`` (a bare file name, or
    ``bundled`` or ``random``), ``sha256`` (identity of that artefact) and whatever else is known.
    """
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        n = len(self.classes)
        _check(2 <= n <= 255, "classes", "2 to 255 names", n)
        if not self.palette:
            object.__setattr__(self, "palette", default_palette(n))
        _check(len(self.palette) == n, "palette", f"{n} colours", len(self.palette))
        _check(self.color_order in ("bgr", "rgb"), "color_order", "bgr or rgb", self.color_order)
        _check(
            self.width >= 1 and self.fc_channels >= 1,
            "width and fc_channels",
            "at least 1",
            (self.width, self.fc_channels),
        )
        _check(len(self.mean) == 3 and all(map(math.isfinite, self.mean)), "mean", "three numbers", self.mean)
        _check(
            len(self.std) == 3 and all(math.isfinite(s) and s > 0 for s in self.std),
            "std",
            "three numbers above 0",
            self.std,
        )
        _check(0 <= self.ignore_label <= 255, "ignore_label", "0 to 255", self.ignore_label)
        _check(
            self.max_height >= 1 and self.max_width >= 1,
            "max_height and max_width",
            "at least 1",
            (self.max_height, self.max_width),
        )
        _check(
            "labels" in self.outputs and set(self.outputs) <= set(OUTPUTS),
            "outputs",
            f"labels and any of {OUTPUTS[1:]}",
            self.outputs,
        )
        _check(self.precision in PRECISIONS, "precision", f"one of {PRECISIONS}", self.precision)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def with_evidence(self, kind: str, record: dict[str, Any]) -> ModelSpec:
        """A copy that also keeps what a check found."""
        return self.replace(evidence={**self.evidence, kind: record})

    def with_parent(self, **link: Any) -> ModelSpec:
        """A copy whose nearest parent is ``link`` (see :attr:`provenance`)."""
        return self.replace(provenance=(link, *self.provenance))

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, source: str = "the model description") -> ModelSpec:
        """Read what :meth:`to_json` wrote.

        Args:
            text: the JSON.
            source: the file it comes from, for messages.

        Raises:
            ModelError: it is not JSON, from a newer schema, or a field is wrong.
        """
        try:
            data = json.loads(text)
        except ValueError as exc:
            raise ModelError(f"{source}: the model description is not JSON ({exc})") from exc
        if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
            raise ModelError(f"{source}: the model description has no schema_version; export the model again")
        if data["schema_version"] > SCHEMA_VERSION:
            raise ModelError(
                f"{source}: written by a newer fcn-deploy (schema {data['schema_version']}, this one "
                f"reads up to {SCHEMA_VERSION}); upgrade with: pip install -U fcn-deploy"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ModelError(f"{source}: unknown fields in the model description: {', '.join(unknown[:5])}")
        try:
            return cls(**{k: _frozen(v) if k != "evidence" else v for k, v in data.items()})
        except ModelError as exc:
            raise ModelError(f"{source}: {exc}") from exc
        except (TypeError, ValueError) as exc:
            raise ModelError(
                f"{source}: the model description is damaged ({exc}); export the model again"
            ) from exc


def _check(ok: bool, name: str, expected: str, found: object) -> None:
    if not ok:
        raise ModelError(f"{name}: expected {expected}, found {found}")


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, so that equal specs compare equal."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
