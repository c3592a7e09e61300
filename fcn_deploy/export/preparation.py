"""How frames were prepared in training, as users write it down -> as a ModelSpec holds it."""

from __future__ import annotations

import math

from fcn_deploy.errors import UsageError

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""torchvision's statistics of ImageNet, R, G, B, for frames of 0 to 1."""

ORDERS = ("bgr", "rgb")


def to_spec(
    mean: Triple | None, std: Triple | None, scale: float | None, trained_on: str
) -> dict[str, Triple]:
    """``mean`` and ``std`` for frames of 0 to 255 in the order B, G, R; only what was given.

    The network reads ``(frame * scale - mean) / std``.

    Args:
        mean: in the channel order of the training; None where it is not given.
        std: in the same order; None where it is not given.
        scale: what frames of 0 to 255 were multiplied with first, such as 1/255; None stands for 1.
        trained_on: the channel order of the training, ``bgr`` or ``rgb``.

    Raises:
        UsageError: a number cannot be used.
    """
    factor = 1.0 if scale is None else scale
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(f"scale must be a number above 0, such as 1/255, not {scale}")
    for name, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != 3:
            raise UsageError(f"{name} is one number a channel, three in all, not {given!r}")
    found = {}
    if mean is not None:
        found["mean"] = _ordered([value / factor for value in mean], trained_on)
    if std is not None or scale is not None:
        found["std"] = _ordered([value / factor for value in std or (1.0, 1.0, 1.0)], trained_on)
    return found


def _ordered(values: list[float], trained_on: str) -> Triple:
    first, second, third = values if trained_on == "bgr" else values[::-1]
    return first, second, third


def order_warning(mean: Triple | None, scale: float | None, trained_on: str) -> tuple[str, ...]:
    """A sentence where ImageNet's mean, which is copied from training code so often, is in the other order.

    Args: as those of :func:`to_spec`.
    """
    if mean is None:
        return ()
    wrong = IMAGENET_MEAN if trained_on == "bgr" else IMAGENET_MEAN[::-1]
    pairs = zip(mean, wrong, strict=True)
    if not all(math.isclose(value / (scale or 1.0), 255 * one, rel_tol=1e-3) for value, one in pairs):
        return ()
    other = "rgb" if trained_on == "bgr" else "bgr"
    return (
        f"mean {', '.join(f'{value:g}' for value in mean)} is taken in the order {trained_on}, that of the "
        f"training; it is ImageNet's in the order {other}: reverse mean and std, or say --trained-on "
        f"{other}, unless the training really did that",
    )
