"""The fp32 reference: which checkpoint or file an artefact is compared with, and its labels.

The reference is the plain module behind numpy preprocessing, never the deploy graph, where this package can
build that module. The module of a user needs the user's code: there it is the fp32 artefact, which export
compared with the module itself. It runs in a process of its own that has ended before anything is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import input_file, sha256_of
from fcn_deploy.model import CHECKPOINT_SUFFIXES, bundled_path
from fcn_deploy.runtimes.artefact import identity, read_spec
from fcn_deploy.runtimes.location import Location
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from fcn_deploy.model.network import Network

_GRAPHS = ("onnx", "engine")
"""Kinds of provenance entries that hold the same weights in another form."""


CHECKPOINT, ARTEFACT, ORIGINAL = "checkpoint", "artefact", "original"
"""Weights of a network that this package can build; an artefact in fp32; an ONNX file that was wrapped."""
_ARTEFACTS = (".onnx", ".pt2")


@dataclass(frozen=True)
class BenchReference:
    """A checkpoint or an artefact, and what is needed to run it."""

    name: str
    """A bare file name, ``bundled``, or ``random (seed N)``."""
    path: str | None
    """None where the weights are generated again from their seed."""
    why: str
    """Why it is the reference, in words."""
    spec: str
    """JSON of the description: variant, colour order, mean and scale."""
    trained_on: str | None = None
    kind: str = CHECKPOINT
    """:data:`CHECKPOINT`, :data:`ARTEFACT` or :data:`ORIGINAL`."""
    key: str | None = None
    """Which of several sets of weights in the checkpoint."""

    def job(self) -> dict[str, Any]:
        """The argument of :func:`label_with_reference`, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def named_reference(name: str, spec: ModelSpec) -> BenchReference:
    """The checkpoint or artefact that the user named.

    Args:
        name: a file, or ``bundled``.
        spec: description of the artefact, used for a checkpoint that has none of its own.

    Raises:
        UsageError: it cannot be read, is no checkpoint or artefact, or was converted to lower precision.
        ModelError: an ONNX file or a program carries no description.
    """
    if Path(name).suffix == ".engine":  # of any other file its content decides, when it is read in the child
        raise UsageError(f"{name} is not a checkpoint; name the weights that it was made from")
    path = bundled_path() if name == "bundled" else input_file(name, "reference checkpoint")
    if not _is_fp32(path):
        raise UsageError(f"{path} is a conversion to lower precision; name the fp32 checkpoint")
    if path.suffix in _ARTEFACTS:
        return _artefact(path, read_spec(path), "named as the reference")
    if path.suffix == ".safetensors":
        spec = _own_spec(path) or spec
    return _reference("bundled" if name == "bundled" else path.name, path, "named as the reference", spec)


def chain_reference(path: Location, spec: ModelSpec, given: Iterable[Location]) -> BenchReference:
    """The fp32 checkpoint that an artefact was made from; of a user's module, the fp32 artefact.

    An fp32 safetensors artefact is its own reference. Otherwise it is the nearest checkpoint in the
    provenance, found by its SHA-256 among the files beside the artefacts, the artefacts given and the
    bundled weights. If it is missing, no earlier checkpoint is used instead: there may have been
    training in between.

    Args:
        path: the artefact.
        spec: its description.
        given: all artefacts of the benchmark.

    Raises:
        ModelError: there is none; the message says why.
    """
    if isinstance(path, Path) and path.suffix == ".safetensors" and _is_fp32(path):
        return _reference(path.name, path, "its own weights", spec)
    for link in spec.provenance:
        if link.get("kind") in _GRAPHS:
            continue
        if link.get("kind") == "module":
            return _fp32_artefact(path, spec, given)
        if seed := re.fullmatch(r"random \(seed \d+\)", str(link.get("name"))):
            return _reference(seed.group(), None, "generated again from its seed", spec)
        found = _find(link, [path, *given])
        if found is None:
            raise ModelError(
                f"its checkpoint {link.get('name')} (sha256 {str(link.get('sha256'))[:12]}) is not beside "
                "it; put it there, or name it as the reference"
            )
        if link.get("kind") == ORIGINAL:
            return _original(found, spec)
        if _is_fp32(found):
            why, how = "the checkpoint in its own provenance", (link.get("trained_on"), link.get("key"))
            return _reference(str(link["name"]), found, why, spec, *how)
    raise ModelError("its description names no fp32 checkpoint; name one as the reference")


def label_with_reference(
    reference: dict[str, Any], frames: str, out: str, trust: bool = False
) -> dict[str, Any]:
    """In the child: label the frames and write the labels to a file.

    Args:
        reference: what :meth:`BenchReference.job` gave.
        frames: npy file of uint8 ``[F, H, W, 3]`` in B, G, R.
        out: where the labels go, npy of uint8 ``[F, H, W]``.
        trust: open a program without its manifest.

    Returns:
        ``classes``: how many the reference has.
    """
    with _opened(BenchReference(**reference), trust) as (label, color_order, classes):
        pool = np.load(frames)
        ordered = pool if color_order == "bgr" else pool[..., ::-1]
        np.save(out, np.concatenate([label(np.ascontiguousarray(frame[None])) for frame in ordered]))
    return {"classes": classes}


Label = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 ``[N, H, W, 3]`` frames -> uint8 ``[N, H, W]`` labels."""


@contextmanager
def _opened(reference: BenchReference, trust: bool) -> Iterator[tuple[Label, str, int]]:
    """A function that labels with the reference, the colour order of its frames, and its classes."""
    spec = ModelSpec.from_json(reference.spec)
    if reference.kind == ORIGINAL:
        from fcn_deploy.export.foreign import original_labels

        with original_labels(str(reference.path), spec) as labels:
            yield labels, spec.color_order, spec.num_classes
    elif reference.kind == ARTEFACT:
        from fcn_deploy.runtimes.registry import backend_for, load

        path = Path(str(reference.path))
        trusted = backend_for(path).own_options({"trust": trust or None})
        with load(path, device="cpu", **trusted) as model:
            yield lambda images: model.infer(images).labels, model.spec.color_order, model.spec.num_classes
    else:
        from fcn_deploy.model.deploy import reference_labels

        network, spec = load_reference(reference)
        yield partial(reference_labels, network, spec), spec.color_order, network.num_classes


def load_reference(reference: BenchReference) -> tuple[Network, ModelSpec]:
    """The plain float32 module, and the description that says how its frames are prepared.

    Raises:
        ModelError: the weights do not fit, or it is no checkpoint.
    """
    from fcn_deploy.model.checkpoints.layouts import load_checkpoint
    from fcn_deploy.model.checkpoints.random import random_model

    if reference.kind != CHECKPOINT:
        raise ModelError(
            f"{reference.name} was made of a module whose code is not here; export the module as you did "
            "before and name that file (--typical-model FILE)"
        )
    spec = ModelSpec.from_json(reference.spec)
    name, options = spec.architecture.name, spec.architecture.options
    learned = options.get("learned_upscore") or None
    if reference.path is None:
        seed = int(re.sub(r"\D", "", reference.name))
        return random_model(spec.num_classes, name, **options, seed=seed)[0], spec
    load = partial(
        load_checkpoint,
        reference.path,
        learned_upscore=learned,
        trained_on=reference.trained_on,
        key=reference.key,
    )
    try:
        model, _ = load()
        told = model.architecture.name == name
    except UsageError:
        told = False
    if not told:  # the variant is in the description only
        model, _ = load(variant=name, num_classes=spec.num_classes)
    return model, spec


def _fp32_artefact(path: Location, spec: ModelSpec, given: Iterable[Location]) -> BenchReference:
    """The fp32 artefact of a user's module: this one, the one that it was made from, or one given beside it.

    Raises:
        ModelError: there is none.
    """
    if isinstance(path, Path) and spec.precision == "fp32":
        return _artefact(path, spec, "its own fp32 form, which export compared with the module")
    parents = {link.get("sha256") for link in spec.provenance if link.get("kind") == "onnx"}
    root = spec.provenance[-1]
    beside = _files_beside([path, *given], lambda file: file.suffix in _ARTEFACTS)
    in_fp32 = {file: s for file in beside if (s := _own_spec(file)) is not None and s.precision == "fp32"}
    for file, found in in_fp32.items():
        if identity(file) in parents:
            return _artefact(file, found, "the fp32 artefact that it was made from")
    for file, found in in_fp32.items():
        same_module = root.get("sha256") is not None and found.provenance[-1:] == (root,)
        if same_module and _prepared(found) == _prepared(spec):
            return _artefact(file, found, "the fp32 artefact of the same module")
    raise ModelError(
        f"it was made of {root.get('name')}, and no fp32 artefact of it is beside it; put it there, or name "
        "it as the reference"
    )


def _prepared(spec: ModelSpec) -> tuple[object, ...]:
    """What must be equal for two artefacts of a module to label a frame alike."""
    return (spec.mean, spec.std, spec.architecture, spec.size_multiple, spec.threshold, spec.fixed_shape)


def _original(path: Path, spec: ModelSpec) -> BenchReference:
    why = "the file that was wrapped, behind numpy preprocessing"
    return dataclasses.replace(_reference(path.name, path, why, spec), kind=ORIGINAL)


def _artefact(path: Path, spec: ModelSpec, why: str) -> BenchReference:
    return dataclasses.replace(_reference(path.name, path, why, spec), kind=ARTEFACT)


def _reference(
    name: str,
    path: Path | None,
    why: str,
    spec: ModelSpec,
    trained_on: str | None = None,
    key: str | None = None,
) -> BenchReference:
    # Fields that do not affect the numbers are removed, so that artefacts of one model share one reference.
    bare = spec.replace(
        evidence={}, provenance=(), reference=None, note="", outputs=("labels",), precision="fp32"
    )
    where = None if path is None else str(path.resolve())
    return BenchReference(name, where, why, bare.to_json(), trained_on, key=key)


def _find(link: dict[str, Any], artefacts: list[Location]) -> Path | None:
    """The file with the link's SHA-256; files with its name are tried first, because hashing is slow."""
    beside = _files_beside(
        artefacts, lambda file: file.suffix in CHECKPOINT_SUFFIXES or file.name == link.get("name")
    )
    candidates = sorted({*beside, bundled_path()}, key=lambda file: (file.name != link.get("name"), file))
    return next((file for file in candidates if file.is_file() and _hash(file) == link.get("sha256")), None)


def _files_beside(artefacts: Iterable[Location], wanted: Callable[[Path], bool]) -> list[Path]:
    """The files in the folders of artefacts that are wanted, by name."""
    folders = {artefact.parent for artefact in artefacts if isinstance(artefact, Path)}
    found = {f.resolve() for folder in folders for f in folder.iterdir() if wanted(f) and f.is_file()}
    return sorted(found)


@functools.lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def _hash(path: Path) -> str | None:
    """SHA-256 of a file, cached while the file does not change; None where it may not be read."""
    try:
        status = path.stat()
        return _hash_of(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return None


def _is_fp32(path: Path) -> bool:
    """Whether weights are as they were trained, and not converted to lower precision.

    How a file stores them does not say it: the bundled ones are stored as float16 to be small, and
    float32 artefacts made from them hold the same numbers.
    """
    spec = _own_spec(path) if path.suffix in (".safetensors", *_ARTEFACTS) else None
    return spec is None or spec.precision == "fp32"


def _own_spec(path: Path) -> ModelSpec | None:
    try:
        return read_spec(path)
    except ModelError:
        return None
