"""ModelSpec: the one description of a model, carried by every artefact made from it.

It is stored as one JSON string: in an ONNX file under :data:`METADATA_KEY` of ``metadata_props``,
in a safetensors file under the same key of its metadata, and beside an engine as
``NAME.engine.json``. Everything that has to know how a frame is prepared or what a label means
reads it from there, so that nothing is repeated, and nothing can differ, on the device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcn_deploy.classes import Color, default_palette
from fcn_deploy.contract import CONTRACTS, DEPLOY
from fcn_deploy.errors import ModelError

METADATA_KEY = "fcn_deploy.spec"
SCHEMA_VERSION = 2
UNLABELLED = 255
"""The label reserved for ignored pixels; it is never a class id."""

CAFFE_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
"""Mean of the ILSVRC training frames per channel B, G, R, as the authors' Caffe layers use it."""

Triple = tuple[float, float, float]
"""One number a channel."""

IMAGENET_MEAN: Triple = (0.406, 0.456, 0.485)
IMAGENET_STD: Triple = (0.225, 0.224, 0.229)
"""Of ImageNet's frames of 0 to 1, B, G, R. Source: torchvision's documentation of its pretrained weights."""

PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")


@dataclass(frozen=True)
class Architecture:
    """Which network it is: enough to build it again, without its weights."""

    name: str
    """Such as ``fcn8s-same``; the network's own module defines it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What that network was built with, as JSON can hold it, such as ``{"width": 16}``."""

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and isinstance(self.options, Mapping)
        _check(named, "architecture", "a name and options by name", (self.name, self.options))


@dataclass(frozen=True)
class Reference:
    """What parity was checked against."""

    name: str
    """The network in words, such as ``fcn8s-same``."""
    known_by: str
    """How it is known that the weights belong to that network: ``stated`` (by the user, nothing in the
    file confirms it), ``description``, ``metadata``, ``md5``, ``keys``, ``random``, ``module`` (the
    user's own code) or ``file`` (an ONNX file that was wrapped)."""
    sha256: str | None = None
    """Of the checkpoint; None where there was no file."""

    def __str__(self) -> str:
        return f"{self.name} as stated" if self.known_by == "stated" else self.name


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects, what it gives, and where it comes from.

    Raises:
        ModelError: a field is out of range; the message names it.
    """

    classes: tuple[str, ...]
    """Names by class id; 2 to 255 of them."""
    architecture: Architecture
    """Which network it is, and how it was built."""
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
    """The largest frame that is accepted."""
    min_height: int = 1
    min_width: int = 1
    """The smallest frame that is accepted; above 1 where the network itself fails on smaller ones."""
    fixed_shape: tuple[int | None, int | None, int | None] = (None, None, None)
    """Batch, height and width where the graph takes one length only; None for a length that varies."""
    threshold: float | None = None
    """Of a network with one channel of logits: class 1 is where its sigmoid is above this probability; None
    where the largest of several logits decides."""
    size_multiple: int = 1
    """Frames are padded inside the graph to a multiple of this many pixels; 1 where any size is taken as
    it is."""
    stride: int | None = None
    """Pixels by which a frame must be shifted for the network to compute the same, shifted, numbers:
    the product of its strides (32 for FCN-8s); None where it is not known."""
    contract: str = DEPLOY.name
    """Which inputs and outputs the graph has: a name in :data:`fcn_deploy.contract.CONTRACTS`."""
    outputs: tuple[str, ...] = ("labels",)
    """``labels``, and on request ``confidence`` and ``logits``."""
    precision: str = "fp32"
    """Declared precision of the trunk's convolutions: one of :data:`PRECISIONS`."""
    note: str = ""
    """Shown wherever the model is named, such as the limits of a model trained on little data."""
    reference: Reference | None = None
    """What parity was checked against; None where it is not recorded."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """What was verified when the artefact was made, by kind: ``parity``, ``fp16_range``."""
    provenance: tuple[dict[str, Any], ...] = ()
    """The chain back to the checkpoint, nearest parent first.

    Each link: ``kind`` (checkpoint, safetensors, onnx), ``name`` (a bare file name, or
    ``bundled`` or ``random``), ``sha256`` (identity of that artefact) and whatever else is known.
    """
    digest: str = ""
    """SHA-256 over the artefact's graph and weights and this description without this field; other metadata
    are not covered. Empty where the artefact is an engine (its sidecar holds the hash) or was written by
    version 0.1."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        self._check_types()
        n = len(self.classes)
        _check(2 <= n <= 255, "classes", "2 to 255 names", n)
        if not self.palette:
            object.__setattr__(self, "palette", default_palette(n))
        _check(len(self.palette) == n, "palette", f"{n} colours", len(self.palette))
        _check(self.color_order in ("bgr", "rgb"), "color_order", "bgr or rgb", self.color_order)
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
            1 <= self.min_height <= self.max_height and 1 <= self.min_width <= self.max_width,
            "min_height and min_width",
            "from 1 to max_height and max_width",
            (self.min_height, self.min_width),
        )
        _check(
            len(self.fixed_shape) == 3 and all(n is None or n >= 1 for n in self.fixed_shape),
            "fixed_shape",
            "batch, height and width, each at least 1 or none",
            self.fixed_shape,
        )
        _check(
            self.threshold is None or (0 < self.threshold < 1 and n == 2),
            "threshold",
            "a probability between 0 and 1, and two classes",
            self.threshold,
        )
        _check(
            self.size_multiple >= 1 and (self.stride is None or self.stride >= 1),
            "size_multiple and stride",
            "at least 1",
            (self.size_multiple, self.stride),
        )
        _check(self.contract in CONTRACTS, "contract", f"one of {tuple(CONTRACTS)}", self.contract)
        known = tuple(CONTRACTS[self.contract].outputs)
        _check(
            "labels" in self.outputs and set(self.outputs) <= set(known),
            "outputs",
            f"labels and any of {known[1:]}",
            self.outputs,
        )
        _check(self.precision in PRECISIONS, "precision", f"one of {PRECISIONS}", self.precision)

    def _check_types(self) -> None:
        """Lists become tuples, so that equal specs compare equal; other types are refused."""
        for name in ("classes", "palette", "mean", "std", "outputs", "provenance", "fixed_shape"):
            value = getattr(self, name)
            _check(isinstance(value, (list, tuple)), name, "a list", value)
            object.__setattr__(self, name, _frozen(list(value)))
        _check(all(isinstance(c, str) and c for c in self.classes), "classes", "names", self.classes)
        colors = all(len(c) == 3 and all(_is_int(v) and 0 <= v <= 255 for v in c) for c in self.palette)
        _check(colors, "palette", "colours of three numbers from 0 to 255", self.palette)
        for name in ("mean", "std"):
            _check(all(map(_is_number, getattr(self, name))), name, "three numbers", getattr(self, name))
        whole = ("ignore_label", "max_height", "max_width", "min_height", "min_width", "size_multiple")
        for name in whole:
            _check(_is_int(getattr(self, name)), name, "a whole number", getattr(self, name))
        lengths = all(length is None or _is_int(length) for length in self.fixed_shape)
        _check(lengths, "fixed_shape", "whole numbers or none", self.fixed_shape)
        threshold = self.threshold is None or _is_number(self.threshold)
        _check(threshold, "threshold", "a number or none", self.threshold)
        _check(self.stride is None or _is_int(self.stride), "stride", "a whole number or none", self.stride)
        for name in ("color_order", "contract", "precision", "note", "digest"):
            _check(isinstance(getattr(self, name), str), name, "text", getattr(self, name))
        _check(isinstance(self.evidence, dict), "evidence", "records by kind", self.evidence)
        links = all(isinstance(link, dict) for link in self.provenance)
        _check(links, "provenance", "a list of links", self.provenance)
        _check(len(set(self.outputs)) == len(self.outputs), "outputs", "each once", self.outputs)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked again, and without the original's digest."""
        return dataclasses.replace(self, **{"digest": "", **changes})

    def with_evidence(self, kind: str, record: dict[str, Any]) -> ModelSpec:
        """A copy that also keeps what a check found."""
        return self.replace(evidence={**self.evidence, kind: record})

    def evidence_for_child(self) -> dict[str, Any]:
        """The evidence as an artefact made from this one keeps it: what was verified about the parent is the
        parent's, under ``parent_parity`` and ``parent_answers``."""
        own = ("parity", "answers")
        kept = {kind: record for kind, record in self.evidence.items() if kind not in own}
        return {**kept, **{f"parent_{kind}": self.evidence[kind] for kind in own if kind in self.evidence}}

    def with_parent(self, **link: Any) -> ModelSpec:
        """A copy whose nearest parent is ``link`` (see :attr:`provenance`)."""
        return self.replace(provenance=(link, *self.provenance))

    def with_digest(self, content: str) -> ModelSpec:
        """A copy with the digest of an artefact.

        Args:
            content: SHA-256 of the artefact's graph and weights, in hexadecimal digits.
        """
        return self.replace(digest=self._digest_with(content))

    def describes(self, content: str) -> bool | None:
        """Whether graph, weights and description are those that were written together; None without a digest.

        Args:
            content: as in :meth:`with_digest`.
        """
        return self._digest_with(content) == self.digest if self.digest else None

    def _digest_with(self, content: str) -> str:
        text = self.replace(digest="").to_json()
        return hashlib.sha256(bytes.fromhex(content) + text.encode()).hexdigest()

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
        if data["schema_version"] == 1:
            data = _from_schema_1(data)
        if data["schema_version"] != SCHEMA_VERSION:
            raise ModelError(f"{source}: there is no schema {data['schema_version']}; export the model again")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ModelError(f"{source}: unknown fields in the model description: {', '.join(unknown[:5])}")
        try:
            return cls(**_fields_of(data))
        except ModelError as exc:
            raise ModelError(f"{source}: {exc}") from exc
        except (TypeError, ValueError, AttributeError) as exc:
            raise ModelError(
                f"{source}: the model description is damaged ({exc}); export the model again"
            ) from exc


def _fields_of(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`ModelSpec` from what JSON holds."""
    fields = {key: value if key == "evidence" else _frozen(value) for key, value in data.items()}
    if "architecture" in fields:
        fields["architecture"] = Architecture(**data["architecture"])
        fields["architecture"].options.items()  # raises where it is not a mapping
    if fields.get("reference") is not None:
        fields["reference"] = Reference(**data["reference"])
    return fields


_SCHEMA_1_OPTIONS = {"width": 64, "fc_channels": 4096, "learned_upscore": False}
"""Fields of version 0.1, which had FCN-8s only, and their defaults."""


def _from_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """What version 0.1 wrote, in the fields of the current schema."""
    kept = {key: value for key, value in data.items() if key not in (*_SCHEMA_1_OPTIONS, "variant")}
    if "variant" in data:
        options = {key: data.get(key, default) for key, default in _SCHEMA_1_OPTIONS.items()}
        kept["architecture"] = {"name": data["variant"], "options": options}
    return {**kept, "stride": 32, "schema_version": SCHEMA_VERSION}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(ok: bool, name: str, expected: str, found: object) -> None:
    if not ok:
        raise ModelError(f"{name}: expected {expected}, found {found}")


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, so that equal specs compare equal."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
