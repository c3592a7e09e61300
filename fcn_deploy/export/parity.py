"""Parity: an artefact against its reference, over sizes, with the evidence kept.

The reference of an export is :func:`fcn_deploy.model.deploy.reference_logits`: the plain network behind numpy
preprocessing. The rewritten deploy graph is never its own reference. A graph that is converted without its
checkpoint is compared with the fp32 graph that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import INPUT
from fcn_deploy.errors import ParityError
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import crop_offset, deciding_node
from fcn_deploy.lazy import require
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

Frames = NDArray[np.uint8]
LogitArray = NDArray[np.floating[Any]]
Logits = Callable[[Frames], LogitArray]
"""uint8 ``[N, H, W, 3]`` -> float ``[N, classes, H, W]``."""
Results = Callable[[Frames], tuple[Frames, LogitArray | None]]
"""uint8 ``[N, H, W, 3]`` -> uint8 ``[N, H, W]`` labels, float ``[N, classes, H, W]`` logits; None in place of
the logits where the network gives labels only."""
Size = tuple[int, int, int]
"""Batch, height and width."""

PARITY_SIZES: tuple[Size, ...] = (
    (1, 1, 1),
    (1, 31, 33),
    (1, 97, 131),
    (1, 224, 224),
    (1, 375, 500),
    (1, 512, 512),
    (3, 90, 120),
    (1, 320, 180),
)
"""Batch, height, width: tiny, odd, square, VOC-like, a batch, a portrait."""

TOLERANCE = 1e-4
"""Largest logit difference over largest logit. Two float32 libraries stay below 1e-5 on FCN-8s."""

ILL_CONDITIONED = 4.0
"""How much further than the fp32 reference an artefact may be from float64, where that is beyond the
tolerance: both round at other places, and a network with untrained weights makes much of each rounding."""

_ADVICE = (
    "install the versions in constraints.txt and export again, or, where the network's code chooses by a "
    "frame's size or its numbers, take that out: a graph cannot follow it"
)

_REPRODUCIBLE = 0.05
"""A network that is further than this from its own float64 has no labels that a device could reproduce."""


LABEL_AGREEMENT = 0.999
"""Smallest share of equal labels where a reference gives no logits, so that ties cannot be told."""


class Expected(NamedTuple):
    """What a reference gives for frames, where that is not just logits."""

    logits: LogitArray | None
    """Float ``[N, classes, H, W]``; None where it gives labels only."""
    labels: Frames | None
    """uint8 ``[N, H, W]``; None where the largest logit decides."""


class SizeRefused(Exception):
    """A reference does not take frames of a size; the message is the reason."""


@dataclass(frozen=True)
class ParityReference:
    """What an artefact is compared with."""

    logits: Callable[[Frames], LogitArray | Expected]
    """The network in fp32: as :data:`Logits`, or what else it gives. It may raise SizeRefused."""
    name: str
    """What it is, and how it is run, for the evidence."""
    network: str
    """A short name, such as ``fcn8s-same``."""
    exact: Callable[[Frames], LogitArray | None] | None = None
    """The same network in float64, asked only where fp32 differs by more than the tolerance; it gives None
    where it cannot be run so."""
    neighbours: Callable[[Frames], Iterator[LogitArray]] | None = None
    """The network in fp32 for frames that differ in the last bit, where there is no float64 of it: how far
    its logits move is what it makes of rounding. Asked as ``exact`` is."""


def check_parity(
    graph: ModelProto, reference: ParityReference, spec: ModelSpec, *, tolerance: float | None = TOLERANCE
) -> dict[str, Any]:
    """As :func:`check_results`, of a deploy graph in ONNX Runtime."""
    against = f"onnxruntime {require('onnxruntime', extra='cpu').__version__} (CPU)"
    with graph_results(graph) as results:
        return check_results(results, reference, spec, against=against, tolerance=tolerance)


def check_results(
    results: Results,
    reference: ParityReference,
    spec: ModelSpec,
    *,
    against: str,
    tolerance: float | None = TOLERANCE,
) -> dict[str, Any]:
    """Compare an artefact with its reference.

    Args:
        results: gives the artefact's labels and, where it has them, logits.
        reference: gives the expected logits or labels. A size that it refuses is left out, and recorded.
        spec: the description of both.
        against: what runs the artefact, for the evidence.
        tolerance: the largest relative logit error that is accepted; None only records the error. Where fp32
            itself is further from float64 than that, the artefact may be :data:`ILL_CONDITIONED` times as
            far from float64 as the reference is; where there is no float64, as many times as far from the
            reference as that moves with the last bit of its frames.

    Returns:
        ``{"reference", "network", "against", "tolerance", "max_relative_error", "min_agreement",
        "differences_beyond_ties", "sizes": [...]}``; every size has its own record. The error and the ties
        are None where the reference gives labels only. ``refused`` has the sizes that it refused, if any.

    Raises:
        ParityError: the error is above the tolerance, a value is not finite, or a label differs
            where the two best classes are not within rounding of each other; where the reference gives
            labels only, fewer than :data:`LABEL_AGREEMENT` of them are equal.
    """
    records, refused = [], []
    for images in parity_batches(spec):
        try:
            scores, truth = _expected(reference.logits(images))
        except SizeRefused as exc:
            refused.append({**_size_of(images), "reason": str(exc)})
            continue
        labels, logits = results(images)
        if scores is None or logits is None:
            records.append(compare_labels(labels, truth))
            continue
        record = compare(labels, logits, scores, truth)
        error = record["relative_error"]
        if tolerance is not None and not error <= tolerance:
            exact = None if reference.exact is None else reference.exact(images)
            if exact is not None:
                record |= _against_exact(logits, scores, exact)
            elif reference.neighbours is not None:
                record |= _moved(scores, reference.neighbours(images))
        records.append(record)
    if not records:
        reason = refused[0]["reason"] if refused else "the limits of its frames leave none"
        raise ParityError(f"{reference.network} takes none of the sizes to compare at: {reason}")
    evidence = {
        "reference": reference.name,
        "network": reference.network,
        "against": against,
        "tolerance": tolerance,
        "max_relative_error": _over(max, [r["relative_error"] for r in records]),
        "min_agreement": min(r["agreement"] for r in records),
        "differences_beyond_ties": _over(sum, [r["differences_beyond_ties"] for r in records]),
        "sizes": records,
        **({"refused": refused} if refused else {}),
    }
    if tolerance is not None:
        _refuse(records, tolerance, reference.network)
    return evidence


def _expected(found: LogitArray | Expected) -> tuple[LogitArray | None, Frames]:
    """A reference's logits, if it has any, and labels."""
    logits, labels = found if isinstance(found, Expected) else (found, None)
    if labels is None:
        assert logits is not None, "a reference gives logits or labels"
        labels = logits.argmax(1).astype(np.uint8)
    return logits, labels


def _over(combine: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    """One number for all sizes; None where there are no logits to compare."""
    return None if None in values else combine(values)


def _size_of(images: NDArray[Any]) -> dict[str, int]:
    return dict(zip(("batch", "height", "width"), images.shape, strict=False))


def parity_batches(spec: ModelSpec) -> Iterator[Frames]:
    """Frames of all sizes that are compared and that the network takes; the smallest and the only one too.

    Where a network refuses sizes within its limits, the parent's record has those that it takes.
    """
    parent = spec.evidence.get("parity") or {}
    if parent.get("refused"):
        return (parity_frames(r["batch"], r["height"], r["width"], spec) for r in parent["sizes"])
    batch, height, width = spec.fixed_shape
    smallest = (1, spec.min_height, spec.min_width)
    sizes = dict.fromkeys((smallest, *PARITY_SIZES) if max(smallest) > 1 else PARITY_SIZES)
    taken = [(batch or n, height or h, width or w) for n, h, w in sizes]
    wanted = (size for size in dict.fromkeys(taken) if _within(spec, *size[1:]))
    return (parity_frames(*size, spec) for size in wanted)


def _within(spec: ModelSpec, height: int, width: int) -> bool:
    return spec.min_height <= height <= spec.max_height and spec.min_width <= width <= spec.max_width


def _against_exact(logits: LogitArray, expected: LogitArray, exact: LogitArray) -> dict[str, float]:
    """How far the artefact and the fp32 reference are from float64."""
    largest = float(np.abs(exact).max()) or 1.0
    pairs = (("from_float64", logits), ("reference_from_float64", expected))
    return {name: float(np.abs(values - exact).max()) / largest for name, values in pairs}


def _moved(expected: LogitArray, neighbours: Iterator[LogitArray]) -> dict[str, float]:
    """How far the reference's own logits move with the last bit of its frames."""
    largest = float(np.abs(expected).max())
    moves = [float(np.abs(values - expected).max()) for values in neighbours]
    return {"reference_moves": max(moves, default=0.0) / largest if largest > 0 else 0.0}


@contextmanager
def graph_results(graph: ModelProto) -> Iterator[Results]:
    """A function that gives labels and logits of a deploy graph, whether the logits are an output or not."""
    deciding = deciding_node(graph)
    named = any(output.name == "logits" for output in graph.graph.output)
    # Without a logits output, what ArgMax reads is not cropped yet.
    inside = [] if deciding is None else [deciding.input[0]]
    watched, start = (["logits"], 0) if named else (inside, crop_offset(graph))
    with open_session(graph, watched) as session:

        def results(images: Frames) -> tuple[Frames, LogitArray | None]:
            height, width = images.shape[1:3]
            labels, *logits = session.run(["labels", *watched], {INPUT: images})
            return labels, logits[0][..., start : start + height, start : start + width] if logits else None

        yield results


def compare(
    labels: Frames, logits: LogitArray, reference: LogitArray, truth: Frames | None = None
) -> dict[str, Any]:
    """One size's record.

    Args:
        labels: uint8 ``[N, H, W]`` of the artefact.
        logits: float ``[N, classes, H, W]`` of the artefact.
        reference: float ``[N, classes, H, W]``.
        truth: uint8 ``[N, H, W]`` of the reference; None takes its largest logits.

    Returns:
        Shape, relative logit error, label agreement (0 to 1), and how many labels differ although
        the reference's two best classes are further apart than twice the logit error.
    """
    largest = float(np.abs(reference).max())
    error = float(np.abs(logits - reference).max())
    expected = reference.argmax(1) if truth is None else truth
    best_two = np.partition(reference, -2, axis=1)[:, -2:]
    tie = best_two[:, 1] - best_two[:, 0] <= 2 * error
    return {
        **compare_labels(labels, expected),
        "relative_error": error / largest if largest > 0 else error,
        "differences_beyond_ties": int(((labels != expected) & ~tie).sum()),
    }


def compare_labels(labels: Frames, truth: NDArray[Any]) -> dict[str, Any]:
    """One size's record where there are no logits to compare: shape and label agreement."""
    return {
        **_size_of(truth),
        "relative_error": None,
        "agreement": float(1 - (labels != truth).mean()),
        "differences_beyond_ties": None,
    }


def _refuse(records: list[dict[str, Any]], tolerance: float, network: str) -> None:
    for record in records:
        where = f"{record['batch']}x{record['height']}x{record['width']}"
        if record["relative_error"] is None:
            if record["agreement"] < LABEL_AGREEMENT:
                raise ParityError(
                    f"at {where} only {record['agreement']:.4%} of the labels equal those of {network} (at "
                    f"least {LABEL_AGREEMENT:.1%} are expected); nothing was written"
                )
            continue
        # Written so that NaN, which compares false with everything, is refused too.
        if not (record["relative_error"] <= tolerance or _as_exact(record, tolerance)):
            raise ParityError(
                f"at {where} the exported graph's logits differ from those of {network} by "
                f"{record['relative_error']:.3g} of the largest logit (allowed {tolerance:g}); nothing was "
                f"written: {_remedy(record)}"
            )
        if record["differences_beyond_ties"]:
            raise ParityError(
                f"at {where} {record['differences_beyond_ties']} labels differ from those of {network} where "
                "the two best classes are not tied; nothing was written"
            )


def _as_exact(record: dict[str, Any], tolerance: float) -> bool:
    """Whether the artefact is about as near to the truth as the fp32 reference is."""
    if "reference_moves" in record:
        moves = record["reference_moves"]
        return bool(moves <= _REPRODUCIBLE and record["relative_error"] <= ILL_CONDITIONED * moves)
    own = record.get("reference_from_float64", 0.0)
    return bool(tolerance < ILL_CONDITIONED * own and own <= _REPRODUCIBLE) and bool(
        record["from_float64"] <= ILL_CONDITIONED * own
    )


def _remedy(record: dict[str, Any]) -> str:
    if "reference_moves" in record:
        return (
            f"the network's own logits move by {record['reference_moves']:.3g} when its frames differ in the "
            "last bit; check its weights, and that onnx and onnxruntime are those of constraints.txt"
        )
    own = record.get("reference_from_float64")
    if own is not None and not own <= _REPRODUCIBLE:
        return f"in fp32 the network itself is {own:.3g} from its float64 results; check its weights"
    if own is not None:
        return (
            f"it is {record['from_float64']:.3g} from the network in float64, and the network in fp32 is "
            f"{own:.3g} from it; {_ADVICE}"
        )
    return _ADVICE


def parity_frames(batch: int, height: int, width: int, spec: ModelSpec) -> NDArray[np.uint8]:
    """Seeded frames, uint8 ``[batch, height, width, 3]``: street scenes, with noise in one half.

    Noise alone averages out in a deep network and would hide a shifted crop; a smooth picture
    alone would hide a swapped channel.
    """
    from fcn_deploy.data.street import SyntheticStreet

    clip = SyntheticStreet(frames=batch, height=height, width=width, color_order=spec.color_order)
    frames = np.stack([frame.image for frame in clip])
    noise = np.random.default_rng(height * 10_007 + width).integers(0, 256, frames.shape, dtype=np.uint8)
    half = width // 2
    frames[:, :, half:] = noise[:, :, half:]
    return frames
