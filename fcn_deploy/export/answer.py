"""What somebody else's network gives for a frame: logits, probabilities, one channel, or labels."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.export.graph.surgery import attributes, element_types, makers
from fcn_deploy.export.original import Original
from fcn_deploy.export.parity import Expected, Frames, SizeRefused

if TYPE_CHECKING:
    from onnx import NodeProto

_FLOATS, _BOOL = (1, 10, 11, 16), 9
"""Element types FLOAT, FLOAT16, DOUBLE and BFLOAT16, and BOOL."""
_SAME_NUMBERS = ("Identity", "Cast", "Squeeze", "Unsqueeze")
"""Operators behind which stand the same numbers."""
_BETWEEN = (*_SAME_NUMBERS, "Resize", "Upsample", "Slice", "Transpose", "Reshape", "Clip")
"""Operators that may stand between a sigmoid and the output; probabilities stay probabilities."""
_SUM_TOLERANCE = 5e-3
"""By how much probabilities of a pixel may miss 1; those of float16 do."""


@dataclass(frozen=True)
class ScoreSource:
    """Where in a graph the answer is read."""

    output: str
    """The output that was chosen."""
    scores: str | None
    """What the ArgMax behind the output compares, where the network ends in one."""
    scores_axis: int | None
    """Along which axis it compares them."""
    from_integers: bool
    """Whether it holds integers or truth values, or floats made of them: they are labels then."""
    from_truth: bool
    """Whether it is made of truth values: there are two classes then."""
    sigmoid: bool
    """Whether they are made by a sigmoid."""

    @property
    def tensors(self) -> list[str]:
        return [self.output, *([] if self.scores is None else [self.scores])]


def find_source(original: Original, output: str) -> ScoreSource:
    """Follow an output back to what decides it."""
    made_by, kinds = makers(original.model), element_types(original.model)
    behind = _walk_back(made_by, output, _SAME_NUMBERS)
    scores, axis = None, None
    if behind is not None and behind.op_type == "ArgMax" and kinds.get(behind.input[0]) in _FLOATS[:2]:
        stated = attributes(behind)
        compared = stated.get("axis", 0) % 4
        if compared in (1, 3) and not stated.get("select_last_index"):
            scores, axis = behind.input[0], compared
    maker = _walk_back(made_by, output, ("Identity", "Squeeze", "Unsqueeze"))
    cast_from = kinds.get(maker.input[0]) if maker is not None and maker.op_type == "Cast" else None
    types = [kind for kind in (kinds.get(output), cast_from) if kind is not None]
    integers = any(kind not in _FLOATS for kind in types)
    squashed = _walk_back(made_by, output, _BETWEEN)
    sigmoid = squashed is not None and squashed.op_type in ("Sigmoid", "HardSigmoid")
    return ScoreSource(output, scores, axis, integers, _BOOL in types, sigmoid)


def _walk_back(made_by: dict[str, NodeProto], name: str, through: Collection[str]) -> NodeProto | None:
    """The first node behind a tensor that is none of these operators."""
    node = made_by.get(name)
    while node is not None and node.op_type in through:
        node = made_by.get(node.input[0])
    return node


@dataclass(frozen=True)
class Answer:
    """What a network gives, and how labels are made of it."""

    tensor: str
    """The tensor that is read."""
    kind: str
    """``scores`` of several classes, one ``channel``, or a ``map`` of labels."""
    axis: int | None
    """Of the channels; None where there is no such axis."""
    channels: int | None
    """How many classes it tells apart; None for a map that nothing says it of."""
    probabilities: bool
    """Whether they are probabilities; else they are logits."""
    smaller: bool
    """Whether it has fewer rows than the frame."""
    stride: int | None = None
    """As the user states it."""
    align_corners: bool = False
    threshold: float | None = None
    """Of one channel."""

    @property
    def bound(self) -> float:
        """What one channel is compared with: the threshold, as a logit where the network gives logits."""
        assert self.threshold is not None
        return self.threshold if self.probabilities else math.log(self.threshold / (1 - self.threshold))

    def expected(
        self, found: list[NDArray[Any]], frame: tuple[int, int], padded: tuple[int, int]
    ) -> Expected:
        """The reference's logits and labels, by numpy.

        Args:
            found: the tensors of the source, in its order.
            frame: rows and columns of the frame.
            padded: those of the frame that the network was given.

        Raises:
            SizeRefused: it has another size than the frame.
        """
        height, width = frame
        if self.kind == "map":
            return Expected(None, self._labels(found[0], padded)[:, :height, :width])
        planes = self._planes(found[-1])
        if self.smaller and planes.shape[-2:] != padded:
            planes = resize_bilinear(planes, padded, self.align_corners)
        if planes.shape[-2:] != padded:
            raise SizeRefused(f"it gives {planes.shape[-2]}x{planes.shape[-1]} for {padded[0]}x{padded[1]}")
        if self.kind == "channel":
            planes = np.concatenate([np.full_like(planes, self.bound), planes], 1)
        labels = self._labels(found[0], padded)[:, :height, :width] if len(found) > 1 else None
        return Expected(planes[..., :height, :width], labels)

    def _planes(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """float32 ``[N, channels, h, w]``."""
        values = array.astype(np.float32)
        return values[:, None] if self.axis is None else np.moveaxis(values, self.axis, 1)

    def _labels(self, array: NDArray[Any], padded: tuple[int, int]) -> Frames:
        """uint8 ``[N, H, W]`` of a map, repeated where it is smaller than the frame."""
        one = [axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] == 1]
        flat = np.squeeze(array, one[0]) if one else array
        if flat.shape[1:] != padded:
            if not self.smaller:
                raise SizeRefused(f"it gives {flat.shape[1]}x{flat.shape[2]} for {padded[0]}x{padded[1]}")
            rows, columns = (
                np.arange(there) * here // there for here, there in zip(flat.shape[1:], padded, strict=True)
            )
            flat = flat[:, rows[:, None], columns]
        if flat.min() < 0 or flat.max() > 255:
            raise ModelError(
                f"{self.tensor} holds labels from {flat.min()} to {flat.max()}; they must fit into a byte"
            )
        return flat.astype(np.uint8)


def resize_bilinear(
    planes: NDArray[np.float32], size: tuple[int, int], align_corners: bool
) -> NDArray[np.float32]:
    """``[N, C, h, w]`` at another size, as ``torch.nn.functional.interpolate`` does it, by numpy.

    A row of the result lies at ``(row + 0.5) * h / H - 0.5`` of the source, or with aligned corners at
    ``row * (h - 1) / (H - 1)``; beyond the border the outermost row is repeated.
    """
    for axis, length in ((2, size[0]), (3, size[1])):
        source = planes.shape[axis]
        if align_corners:
            place = np.linspace(0, source - 1, length) if length > 1 else np.zeros(1)
        else:
            place = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, source - 1)
        shape = [-1 if i == axis else 1 for i in range(4)]
        share = (place - low).astype(np.float32).reshape(shape)
        planes = planes.take(low, axis) * (1 - share) + planes.take(high, axis) * share
    return planes


def understand(
    original: Original,
    source: ScoreSource,
    found: list[NDArray[Any]],
    padded: tuple[int, int],
    *,
    logits_stride: int | None,
    align_corners: bool,
    threshold: float | None,
) -> Answer:
    """What arrays that a network gave for one frame are.

    Args:
        original: the file.
        source: where they were read.
        found: one array for each tensor of the source.
        padded: rows and columns of the frame that it was given.
        logits_stride: what the user states: they are smaller than the frame by this factor.
        align_corners: of the resize.
        threshold: what the user states, for one channel.

    Raises:
        ModelError: they are neither logits nor labels of the frame.
        UsageError: they are not what the user states.
    """
    name, array, tensor = original.name, found[0], source.output
    labels = source.from_integers
    axis = _channel_axis(original, array, padded)
    if labels and axis is not None and array.shape[axis] != 1:
        raise ModelError(
            f"{tensor} of {name} holds integers of shape {list(array.shape)}; labels are [N, H, W] or "
            "[N, 1, H, W]"
        )
    smaller = _is_smaller(original, array, axis, padded, logits_stride)
    if labels and source.scores is not None and not smaller:
        array, axis, tensor, labels = found[1], source.scores_axis, source.scores, False
    channels = 1 if axis is None else array.shape[axis]
    kind = "map" if labels else "channel" if channels == 1 else "scores"
    if kind == "map":
        channels = 2 if source.from_truth else None
        if source.scores_axis is not None:
            channels = found[1].shape[source.scores_axis]
    if kind != "channel" and threshold is not None:
        given = "labels" if kind == "map" else f"{channels} channels"
        raise UsageError(
            f"--threshold is for a network of one channel, and {name} gives {given}; leave it out"
        )
    if kind == "map" and align_corners:
        raise UsageError(f"--align-corners is for logits, and {name} gives labels; leave it out")
    return Answer(
        tensor=tensor,
        kind=kind,
        axis=axis,
        channels=channels,
        probabilities=_are_probabilities(array, axis, kind, source.sigmoid),
        smaller=smaller,
        stride=logits_stride,
        align_corners=align_corners,
        threshold=None if kind != "channel" else 0.5 if threshold is None else threshold,
    )


def _channel_axis(original: Original, array: NDArray[Any], padded: tuple[int, int]) -> int | None:
    """The axis of the channels, None of three axes: the others are proportional to the frame."""
    shape = array.shape
    if array.ndim == 3 and shape[0] == 1 and _proportional(shape[1:], padded):
        return None
    axes = [axis for axis in (1, 3) if array.ndim == 4 and _proportional(np.delete(shape, (0, axis)), padded)]
    if not axes:
        raise ModelError(
            f"{original.name} gives shape {list(shape)} for one frame of {padded[0]}x{padded[1]}; logits "
            "[N, classes, H, W] or labels [N, H, W] are needed (--output-name chooses another output)"
        )
    wanted = 3 if original.input.channels_last else 1
    return wanted if wanted in axes else axes[0]


def _proportional(size: Any, padded: tuple[int, int]) -> bool:
    """Whether rows and columns cover a frame, up to one of them in rounding."""
    (h, w), (height, width) = size, padded
    covers = abs(h * width - w * height) <= max(height, width)
    return bool(covers and h <= height and w <= width)


def _is_smaller(
    original: Original, array: NDArray[Any], axis: int | None, padded: tuple[int, int], stride: int | None
) -> bool:
    """Whether it has fewer rows than the frame. Refuses another factor than the user states."""
    rows, columns = array.shape[1:] if axis is None else np.delete(array.shape, (0, axis))
    factor = round(padded[0] / rows)
    gives = f"{original.name} gives {rows}x{columns} for a frame of {padded[0]}x{padded[1]}"
    if stride is None:
        if (rows, columns) == padded:
            return False
        raise UsageError(f"{gives}, and no factor is stated; give --logits-stride {factor}")
    fits = all(
        there // stride <= here <= -(-there // stride)
        for here, there in zip((rows, columns), padded, strict=True)
    )
    if not fits:
        right = f"give --logits-stride {factor}" if factor > 1 else "leave --logits-stride out"
        raise UsageError(
            f"{gives}, and a logits stride of {stride} means {padded[0] // stride} rows; {right}"
        )
    return True


def _are_probabilities(array: NDArray[Any], axis: int | None, kind: str, sigmoid: bool) -> bool:
    """Whether scores are probabilities: by the operator that makes them, or because they add up to 1."""
    if kind == "map":
        return False
    values = array.astype(np.float32)
    if not (float(values.min()) >= 0 and float(values.max()) <= 1):
        return False
    if sigmoid or kind == "channel":
        return sigmoid
    sums: NDArray[np.float32] = values.sum(axis)
    return float(np.abs(sums - 1).max()) < _SUM_TOLERANCE
