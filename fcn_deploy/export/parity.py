"""Parity: an artefact against its reference, over sizes, with the evidence kept.

The reference of an export is :func:`fcn_deploy.model.deploy.reference_logits`: FCN8s as the paper has it
behind numpy preprocessing. The rewritten deploy graph is never its own reference. A graph that is converted
without its checkpoint is compared with the fp32 graph that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
Size = tuple[int, int, int]
"""Batch, height and width."""


class Expected(NamedTuple):
    """What a reference gives for frames."""

    logits: LogitArray | None
    """Float ``[N, classes, H, W]``; None where it gives labels only."""
    labels: Frames | None = None
    """uint8 ``[N, H, W]``; None where the largest logit decides."""


Logits = Callable[[Frames], "LogitArray | Expected"]
"""uint8 ``[N, H, W, 3]`` -> float32 ``[N, classes, H, W]``, or what else it gives; raises SizeRefused."""


class SizeRefused(Exception):
    """A reference does not take frames of a size; the message is the reason."""


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
"""Largest logit difference over largest logit. Two float32 libraries stay below 1e-5 here."""

LABEL_AGREEMENT = 0.999
"""Smallest share of equal labels where a reference gives no logits, so that ties are not known."""


def parity_sizes(spec: ModelSpec) -> tuple[Size, ...]:
    """The sizes to compare at: those of the parent's record, else those that the model takes."""
    if parent := spec.evidence.get("parity"):
        return tuple((r["batch"], r["height"], r["width"]) for r in parent["sizes"])
    wanted = (
        tuple(fixed or length for fixed, length in zip(spec.fixed_shape, size, strict=True))
        for size in PARITY_SIZES
    )
    return tuple(
        dict.fromkeys(
            (batch, height, width)
            for batch, height, width in wanted
            if spec.min_height <= height <= spec.max_height and spec.min_width <= width <= spec.max_width
        )
    )


def check_parity(
    graph: ModelProto,
    reference: Logits,
    spec: ModelSpec,
    *,
    name: str,
    network: str,
    tolerance: float | None = TOLERANCE,
    sizes: Sequence[Size] | None = None,
) -> dict[str, Any]:
    """Compare a deploy graph in ONNX Runtime with its reference.

    Args:
        graph: the deploy graph.
        reference: gives the expected logits or labels. A size that it refuses is left out, and recorded.
        spec: the description of both.
        name: what the reference is, and how it is run, for the evidence.
        network: a short name of the reference, such as ``fcn8s-same``.
        tolerance: the largest relative logit error that is accepted; None only records the error.
        sizes: batches, heights and widths to compare at; None takes :func:`parity_sizes`.

    Returns:
        ``{"reference", "network", "against", "tolerance", "max_relative_error", "min_agreement",
        "differences_beyond_ties", "sizes": [...]}``; every size has its own record. The error and the ties
        are None where the reference gives labels only. Where it refused sizes, ``refused`` has them.

    Raises:
        ParityError: the error is above the tolerance, a value is not finite, or a label differs
            where the two best classes are not within rounding of each other; where the reference gives
            labels only, fewer than :data:`LABEL_AGREEMENT` of them are equal.
    """
    records, refused = [], []
    with graph_results(graph) as results:
        for batch, height, width in parity_sizes(spec) if sizes is None else sizes:
            images = parity_frames(batch, height, width, spec)
            try:
                expected = reference(images)
            except SizeRefused as exc:
                where = {"batch": batch, "height": height, "width": width}
                refused.append({**where, "reason": str(exc)})
                continue
            records.append(compare(*results(images), expected))
    if not records:
        raise ParityError(f"{network} takes none of the sizes to compare at: {refused[0]['reason']}")
    evidence = {
        "reference": name,
        "network": network,
        "against": f"onnxruntime {require('onnxruntime', extra='cpu').__version__} (CPU)",
        "tolerance": tolerance,
        "max_relative_error": _over(max, [r["relative_error"] for r in records]),
        "min_agreement": min(r["agreement"] for r in records),
        "differences_beyond_ties": _over(sum, [r["differences_beyond_ties"] for r in records]),
        "sizes": records,
        **({"refused": refused} if refused else {}),
    }
    if tolerance is not None:
        _refuse(records, tolerance, network)
    return evidence


def _over(combine: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    """One number for all sizes; None where the reference has no logits."""
    return None if None in values else combine(values)


@contextmanager
def graph_results(graph: ModelProto) -> Iterator[Callable[[Frames], tuple[Frames, LogitArray | None]]]:
    """A function that gives labels and logits of a deploy graph, whether the logits are an output or not.

    Yields:
        uint8 ``[N, H, W, 3]`` -> uint8 ``[N, H, W]``, float ``[N, classes, H, W]``; None in place of the
        logits where the network gives labels only.
    """
    deciding = deciding_node(graph)
    named = any(output.name == "logits" for output in graph.graph.output)
    # Without a logits output, what ArgMax reads is not cropped yet.
    inside, start = ([] if deciding is None else [deciding.input[0]]), crop_offset(graph)
    watched, start = (["logits"], 0) if named else (inside, start)
    with open_session(graph, watched) as session:

        def results(images: Frames) -> tuple[Frames, LogitArray | None]:
            height, width = images.shape[1:3]
            labels, *logits = session.run(["labels", *watched], {INPUT: images})
            return labels, logits[0][..., start : start + height, start : start + width] if logits else None

        yield results


def compare(labels: Frames, logits: LogitArray | None, reference: LogitArray | Expected) -> dict[str, Any]:
    """One size's record.

    Args:
        labels: uint8 ``[N, H, W]`` of the artefact.
        logits: float ``[N, classes, H, W]`` of the artefact; None where it has none.
        reference: float32 ``[N, classes, H, W]``, or logits and labels.

    Returns:
        Shape, relative logit error, label agreement (0 to 1), and how many labels differ although
        the reference's two best classes are further apart than twice the logit error. The error and that
        number are None where one of the two has no logits.
    """
    scores, expected = reference if isinstance(reference, Expected) else (reference, None)
    if expected is None:
        assert scores is not None, "a reference gives logits or labels"
        expected = scores.argmax(1).astype(np.uint8)
    differ = labels != expected
    batch, height, width = expected.shape
    record = {"batch": batch, "height": height, "width": width, "agreement": float(1 - differ.mean())}
    if scores is None or logits is None:
        return {**record, "relative_error": None, "differences_beyond_ties": None}
    largest = float(np.abs(scores).max())
    error = float(np.abs(logits - scores).max())
    best_two = np.partition(scores, -2, axis=1)[:, -2:]
    tie = best_two[:, 1] - best_two[:, 0] <= 2 * error
    return {
        **record,
        "relative_error": error / largest if largest > 0 else error,
        "differences_beyond_ties": int((differ & ~tie).sum()),
    }


def _refuse(records: list[dict[str, Any]], tolerance: float, network: str) -> None:
    for record in records:
        where = f"{record['batch']}x{record['height']}x{record['width']}"
        if record["relative_error"] is None:
            if record["agreement"] < LABEL_AGREEMENT:
                raise ParityError(
                    f"at {where} only {record['agreement']:.4%} of labels equal those of {network} (at least "
                    f"{LABEL_AGREEMENT:.1%} are expected); nothing was written"
                )
            continue
        # Written so that NaN, which compares false with everything, is refused too.
        if not record["relative_error"] <= tolerance:
            raise ParityError(
                f"at {where} the exported graph's logits differ from those of {network} by "
                f"{record['relative_error']:.3g} of the largest logit (allowed {tolerance:g}); nothing was "
                "written: install the versions in constraints.txt and export again"
            )
        if record["differences_beyond_ties"]:
            raise ParityError(
                f"at {where} {record['differences_beyond_ties']} labels differ from those of {network} where "
                "the two best classes are not tied; nothing was written"
            )


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
