"""Checkpoint or network -> artefact, with description and evidence inside: the verb ``export_model``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.arguments import as_integer, as_names, as_size
from fcn_deploy.classes import ClassSet
from fcn_deploy.classes.reading import named_classes
from fcn_deploy.contract import OUTPUTS
from fcn_deploy.describe import describe, file_facts, file_row, triple
from fcn_deploy.errors import UsageError
from fcn_deploy.files import check_output, sha256_of
from fcn_deploy.lazy import require
from fcn_deploy.results import Result, Rows
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from fcn_deploy.model.checkpoints import CheckpointInfo
    from fcn_deploy.model.network import Network

SUFFIXES = (".onnx", ".safetensors")
PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, repr=False)
class ExportResult(Result):
    """What :func:`export_model` wrote."""

    path: Path
    """The artefact."""
    spec: ModelSpec
    """The description inside it, with the evidence."""
    bytes: int
    """Of the file; weights beside it, beyond 2 GB, are not counted."""
    sha256: str
    """Of the file."""
    seconds: float
    """From the call until the file was written."""
    assumptions: tuple[str, ...]
    """A sentence for each value in the description that was assumed, not stated."""

    def summary(self) -> Rows:
        return [file_row(self), *describe(self.spec), *(("assumed", text) for text in self.assumptions)]

    def to_dict(self) -> dict[str, Any]:
        """``file``, ``bytes``, ``sha256``, ``seconds``, ``assumed``, ``spec``."""
        return {
            **file_facts(self),
            "assumed": list(self.assumptions),
            "spec": json.loads(self.spec.to_json()),
        }


def export_model(
    checkpoint: str | Path | Network,
    path: str | Path,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    classes: str | Path | Sequence[str] | None = None,
    ignore_label: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    color_order: str | None = None,
    trained_on: str = "bgr",
    outputs: str | Sequence[str] | None = None,
    max_size: tuple[int, int] | None = None,
    note: str | None = None,
    learned_upscore: bool = False,
    width: int | None = None,
    fc_channels: int | None = None,
    seed: int | None = None,
    precision: str = "fp32",
    calib: str | Path | None = None,
    keep_fp32: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Make an artefact of a checkpoint, and verify it before it is written.

    Args:
        checkpoint: a file (``.pth``, ``.pt``, ``.bin``, ``.safetensors``), ``bundled``, ``random``, or a
            network that is in memory.
        path: ``.onnx`` for a deploy graph, ``.safetensors`` for the PyTorch backend.
        variant: the network, needed where the checkpoint does not say it.
        num_classes: what the checkpoint must have; how many random weights get.
        classes: names by class id, a file of them, or ``camvid`` or ``voc``; None uses the names in the
            checkpoint, else numbers.
        ignore_label: label of pixels that are not scored, 0 to 255.
        mean: subtracted from frames of 0..255; in the order B, G, R.
        std: divided by after the mean; in the order B, G, R.
        color_order: ``bgr`` or ``rgb``, of the frames handed to the artefact.
        trained_on: ``bgr`` or ``rgb``, of the frames that the checkpoint was trained on.
        outputs: ``labels`` (always there), and on request ``confidence`` and ``logits``.
        max_size: height and width of the largest frame that is accepted.
        note: shown wherever the model is named.
        learned_upscore: keep upscores as transposed convolutions.
        width: channels of conv1, for random weights.
        fc_channels: channels of fc6 and fc7, for random weights.
        seed: of random weights.
        precision: ``fp32`` or ``fp16``.
        calib: images or a video for the range check of fp16; None uses the synthetic clip.
        keep_fp32: leave layers that overflow fp16 in fp32 instead of failing.
        progress: called with the name of each step as it begins.

    Raises:
        UsageError: an argument cannot be used, a file cannot be read or written, or the variant is
            neither given nor known.
        ModelError: the checkpoint is damaged or does not fit.
        SourceError: the frames for the range check cannot be used.
        ParityError: the graph does not give what the network gives; nothing was written.
        ExportError: the exporter failed, or a layer overflows fp16.
        MissingDependency: PyTorch or onnx is not installed.
    """
    begun = time.monotonic()
    target = check_output(path, SUFFIXES)
    for name, value, minimum in (("width", width, 1), ("fc_channels", fc_channels, 1), ("seed", seed, 0)):
        if value is not None:
            as_integer(name, value, minimum)
    random_only = {"width": width, "fc_channels": fc_channels, "seed": seed}
    from_file_only = {
        "--variant": variant is not None,
        "--num-classes": num_classes is not None,
        "--learned-upscore": learned_upscore,
    }
    _refuse_output(checkpoint, target, precision, calib, keep_fp32)
    _refuse_source(checkpoint, random_only, from_file_only, trained_on)
    named = _class_set(classes, num_classes)
    stated = {
        **({} if named is None else {"classes": named.names, "palette": named.palette or None}),
        "ignore_label": ignore_label if ignore_label is not None or named is None else named.ignore_label,
        "mean": mean,
        "std": std,
        "color_order": color_order,
        "outputs": None if outputs is None else _outputs(as_names(outputs)),
        **({} if max_size is None else dict(zip(_MAX_SIZE, as_size("max_size", max_size), strict=True))),
        "note": note,
    }
    stated = {key: value for key, value in stated.items() if value is not None}
    step = progress or (lambda _: None)
    step("reading the weights")
    model, info = _load(checkpoint, variant, num_classes, named, learned_upscore, trained_on, random_only)
    spec, assumptions = _describe(checkpoint, model, info, trained_on, stated)
    step("writing")
    if target.suffix == ".safetensors":
        from fcn_deploy.model.checkpoints import save_safetensors

        spec = save_safetensors(model, spec.replace(precision=precision), target, dtype=precision)
    else:
        from fcn_deploy.export.onnx import export_onnx

        spec = export_onnx(
            model, spec, target, precision=precision, calib=calib, keep_fp32=keep_fp32, progress=step
        )
    size, sha256 = target.stat().st_size, sha256_of(target)
    return ExportResult(target, spec, size, sha256, time.monotonic() - begun, assumptions)


_MAX_SIZE = ("max_height", "max_width")


def _refuse_output(
    checkpoint: str | Path | Network, target: Path, precision: str, calib: str | Path | None, keep_fp32: bool
) -> None:
    """Refuse what does not go with the file to write."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be fp32 or fp16, not {precision!r}; INT8 is made by quantize")
    if isinstance(checkpoint, (str, Path)) and Path(checkpoint).resolve() == target.resolve():
        raise UsageError(f"{target} is the checkpoint itself; name another file to write")
    for option, given in (("--calib", calib is not None), ("--keep-fp32", keep_fp32)):
        if given and (precision != "fp16" or target.suffix != ".onnx"):
            raise UsageError(f"{option} is for --precision fp16 and an .onnx file; leave it out")


def _refuse_source(
    checkpoint: str | Path | Network,
    random_only: dict[str, int | None],
    from_file_only: dict[str, bool],
    trained_on: str,
) -> None:
    """Refuse what does not go with where the weights come from, before any heavy package is imported."""
    if trained_on not in ("bgr", "rgb"):
        raise UsageError(f"trained_on must be bgr or rgb, not {trained_on!r}")
    in_memory = not isinstance(checkpoint, (str, Path))
    if trained_on == "rgb" and (in_memory or checkpoint == "random"):
        raise UsageError("--trained-on is for checkpoint files; leave it out")
    for option, given in from_file_only.items():
        if given and in_memory:
            raise UsageError(
                f"{option} is for checkpoint files; a network in memory has its own; leave it out"
            )
    for name, value in random_only.items():
        if value is not None and (in_memory or checkpoint != "random"):
            raise UsageError(
                f"--{name.replace('_', '-')} is for --weights random; a checkpoint has its own; leave it out"
            )


def _outputs(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in OUTPUTS:
            raise UsageError(f"--outputs {name or '(empty)'}: choose from {', '.join(OUTPUTS)}")
    # Labels are always an output.
    return tuple(name for name in OUTPUTS if name == "labels" or name in names)


def _class_set(classes: str | Path | Sequence[str] | None, count: int | None) -> ClassSet | None:
    if classes is None:
        return None
    if isinstance(classes, (str, Path)):
        named, source = named_classes(classes), str(classes)
    else:
        named, source = ClassSet(tuple(classes)), "the list of names"
    if count not in (None, len(named.names)):
        raise UsageError(f"{source} names {len(named.names)} classes, and --num-classes says {count}")
    return named


def _load(
    checkpoint: str | Path | Network,
    variant: str | None,
    num_classes: int | None,
    named: ClassSet | None,
    learned_upscore: bool,
    trained_on: str,
    random_only: dict[str, int | None],
) -> tuple[Network, CheckpointInfo]:
    require("torch", extra="export")
    from fcn_deploy.model.checkpoints import in_memory, load_checkpoint, random_model
    from fcn_deploy.model.network import Network

    if isinstance(checkpoint, Network):
        return checkpoint, in_memory(checkpoint)
    if not isinstance(checkpoint, (str, Path)):
        raise UsageError(
            "a checkpoint is a file, 'bundled', 'random' or an FCN8s network, "
            f"not a {type(checkpoint).__name__}"
        )
    if checkpoint == "random":
        seed = random_only["seed"] or 0
        return random_model(
            (21 if named is None else len(named.names)) if num_classes is None else num_classes,
            variant or "fcn8s",
            width=random_only["width"],
            fc_channels=random_only["fc_channels"],
            learned_upscore=learned_upscore,
            seed=seed,
        )
    return load_checkpoint(
        checkpoint,
        variant=variant,
        num_classes=num_classes,
        learned_upscore=learned_upscore or None,
        trained_on=trained_on,
    )


_OWN_EVIDENCE = ("parity", "fp16_range", "made")
"""What export verifies itself: a parent's records of these are not copied."""


def _describe(
    checkpoint: str | Path | Network,
    model: FCN8s,
    info: CheckpointInfo,
    trained_on: str,
    stated: dict[str, Any],
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The description, and a sentence for each value in it that was assumed."""
    from fcn_deploy.model.checkpoints import describe as spec_of

    spec = spec_of(model, info, **stated)
    parent, *ancestors = spec.provenance
    if trained_on == "rgb":
        if info.spec is not None:
            raise UsageError(f"{checkpoint} has a description with its colour order; leave out --trained-on")
        parent = {**parent, "trained_on": "rgb"}
    spec = spec.replace(
        provenance=(parent, *ancestors),
        architecture=model.architecture,
        evidence={kind: found for kind, found in spec.evidence.items() if kind not in _OWN_EVIDENCE},
    )
    if info.kind == "random":
        return spec, ()
    return spec, (*info.assumptions, *_unstated(spec, info, stated))


def _unstated(spec: ModelSpec, info: CheckpointInfo, stated: dict[str, Any]) -> Iterator[str]:
    """What was assumed where a checkpoint without a description does not say it."""
    if info.spec is not None:
        return
    if "classes" not in stated:
        names = "numbers for names" if info.classes is None else "the names in its metadata"
        yield f"{spec.num_classes} classes with {names} (--classes)"
    if "mean" not in stated:
        yield f"frames minus {triple(spec.mean)}, the mean of its training (--mean)"
    if "std" not in stated:
        yield f"and then divided by {triple(spec.std)} (--std)"
