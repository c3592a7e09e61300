"""How the original may have prepared its frames: colour order, /255, mean and std.

A deploy graph computes ``u = (x - mean) / std`` for each colour, whatever of it is folded into weights. Where
the original computes ``u' = (x' - mean') / std'``, with ``x'`` the frame with red and blue exchanged or not,
our graph sees the original's ``u'`` if it is given the frame ``std * u' + mean`` in place of ``x``. So no
preparation needs an edit of the graph: only its frame changes, and has fractions then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.images import Image
from fcn_deploy.describe import triple
from fcn_deploy.spec import CAFFE_MEAN_BGR, IMAGENET_MEAN, IMAGENET_STD, ModelSpec, Triple

ZERO, ONE, BYTE, HALF = (0.0,) * 3, (1.0,) * 3, (255.0,) * 3, (127.5,) * 3
KERAS_MEAN = (103.939, 116.779, 123.68)
"""B, G, R. Source: ``preprocess_input`` of Keras' VGG16, the numbers of the VGG authors."""


@dataclass(frozen=True)
class TriedPreparation:
    """One way to prepare frames, described by how it differs from the artefact's."""

    kinds: tuple[str, ...]
    """The mistakes that it stands for: of ``color order``, ``/255``, ``mean``, ``std``."""
    swapped: bool
    """Whether red and blue are exchanged on the way to the network."""
    mean: Triple
    """B, G, R, over frames of 0..255."""
    std: Triple
    words: str
    """What the original does."""

    def applied(self, image: Image, spec: ModelSpec) -> NDArray[np.float32]:
        """The frame that makes our graph see what the original's network sees.

        Args:
            image: uint8 ``[H, W, 3]`` in the spec's colour order.
            spec: the artefact's own preparation.

        Returns:
            float32 ``[H, W, 3]``.
        """
        step = -1 if spec.color_order == "rgb" else 1
        mean, std = (np.array(values)[::step] for values in (self.mean, self.std))
        own_mean, own_std = (np.array(values)[::step] for values in (spec.mean, spec.std))
        seen = (image.astype(np.float64) - mean) / std
        if self.swapped:
            seen = seen[..., ::-1]
        return np.asarray(own_std * seen + own_mean, np.float32)

    def repair(self, spec: ModelSpec) -> str:
        """The options that export it rightly: numbers are in the channel order of ``--trained-on``."""
        own_order = trained_on(spec)
        order = {"bgr": "rgb", "rgb": "bgr"}[own_order] if self.swapped else own_order
        options = [f"--trained-on {order}"]
        for option, own, value in (("--mean", spec.mean, self.mean), ("--std", spec.std, self.std)):
            # Three equal numbers mean the same in both orders.
            turned = self.swapped and len(set(value)) > 1
            if turned or not np.allclose(own, value):
                ordered = value if order == "bgr" else _reversed(value)
                options.append(f"{option} {triple(ordered).replace(' ', '')}")
        return " ".join(options)


def trained_on(spec: ModelSpec) -> str:
    """``bgr`` or ``rgb``: the channel order of the training that an artefact was exported for."""
    links = [str(link["trained_on"]) for link in spec.provenance if "trained_on" in link]
    return (links or [str(spec.architecture.options.get("channel_order", "bgr"))])[0]


def preparations(spec: ModelSpec) -> list[TriedPreparation]:
    """What the original may do instead of what ``spec`` says; the same numbers only once."""
    found: list[TriedPreparation] = [_exchanged(spec)]
    for mean, std, words in _statistics(spec):
        for swapped in (False, True):
            kinds = (*(("color order",) if swapped else ()), *_differences(spec, mean, std))
            if not kinds or any(_equal(other, swapped, mean, std) for other in found):
                continue
            told = filter(None, ("exchanges red and blue" if swapped else "", words))
            found.append(TriedPreparation(kinds, swapped, mean, std, " and ".join(told)))
    return found


def _exchanged(spec: ModelSpec) -> TriedPreparation:
    """The commonest slip: frames of the other order go through the same code, so red gets blue's mean."""
    words = "exchanges red and blue before the mean is subtracted"
    return TriedPreparation(("color order",), True, _reversed(spec.mean), _reversed(spec.std), words)


def _equal(other: TriedPreparation, swapped: bool, mean: Triple, std: Triple) -> bool:
    return other.swapped == swapped and np.allclose(other.mean, mean) and np.allclose(other.std, std)


def _differences(spec: ModelSpec, mean: Triple, std: Triple) -> Iterator[str]:
    """By which of the usual mistakes these numbers differ from the artefact's own."""
    unit, own_unit = _unit(std), _unit(spec.std)
    if unit != own_unit:
        yield "/255"
    own_mean = np.array(spec.mean)
    if not np.allclose(mean, own_mean) and not np.allclose(mean, own_mean * (unit / own_unit)):
        yield "mean"
    if not np.allclose(np.array(std) / unit, np.array(spec.std) / own_unit):
        yield "std"


def _unit(std: Triple) -> float:
    """255 where frames are divided by 255 (alone or within the std), 255 x 255 where twice, 1 where not."""
    return float(255.0 ** round(float(np.log(std).mean() / np.log(255))))


def _statistics(spec: ModelSpec) -> Iterator[tuple[Triple, Triple, str]]:
    """Mean, std and words: the artefact's own, what one slip makes of them, and those in common use."""
    mean, std = spec.mean, spec.std
    yield mean, std, ""
    yield ZERO, std, "subtracts no mean"
    yield _reversed(mean), std, "subtracts the mean in the other channel order"
    yield mean, ONE if _unit(std) == 1 else BYTE, "divides by no std"
    yield mean, _times(IMAGENET_STD, 255), "divides by ImageNet's std"
    yield mean, _reversed(std), "divides by the std in the other channel order"
    yield _reversed(mean), _reversed(std), "has mean and std in the other channel order"
    yield mean, _times(std, 255), "divides by 255 after the mean is subtracted"
    yield mean, _times(std, 1 / 255), "does not divide by 255 after the mean is subtracted"
    yield _times(mean, 255), _times(std, 255), "divides frames by 255 before the mean is subtracted"
    yield (
        _times(mean, 1 / 255),
        _times(std, 1 / 255),
        "does not divide frames by 255 before the mean is subtracted",
    )
    scaled = _times(IMAGENET_MEAN, 255)
    yield CAFFE_MEAN_BGR, ONE, "takes 0..255 minus Caffe's ImageNet mean"
    yield KERAS_MEAN, ONE, "takes 0..255 minus VGG's mean"
    yield ZERO, ONE, "takes 0..255 as they are"
    yield ZERO, BYTE, "takes 0..1 and does nothing else"
    yield scaled, _times(IMAGENET_STD, 255), "takes 0..1 with ImageNet's mean and std"
    yield scaled, BYTE, "takes 0..1 minus ImageNet's mean, without a std"
    yield IMAGENET_MEAN, IMAGENET_STD, "takes 0..255 with ImageNet's mean and std of 0..1"
    yield CAFFE_MEAN_BGR, BYTE, "subtracts Caffe's mean and divides by 255"
    yield HALF, HALF, "takes -1..1 (mean and std 0.5)"


def _reversed(values: Triple) -> Triple:
    return values[2], values[1], values[0]


def _times(values: Triple, factor: float) -> Triple:
    return values[0] * factor, values[1] * factor, values[2] * factor
