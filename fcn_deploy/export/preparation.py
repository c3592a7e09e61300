"""How frames were prepared in training, as users write it down -> as a ModelSpec holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real

from fcn_deploy.errors import UsageError
from fcn_deploy.spec import IMAGENET_MEAN, Triple

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
        UsageError: as :func:`check_statistics`.
    """
    check_statistics(mean, std, scale)
    factor = 1.0 if scale is None else scale
    found = {}
    if mean is not None:
        found["mean"] = _ordered([float(value) / factor for value in mean], trained_on)
    if std is not None or scale is not None:
        found["std"] = _ordered([float(value) / factor for value in std or (1, 1, 1)], trained_on)
    return found


def check_statistics(mean: Sequence[float] | None, std: Sequence[float] | None, scale: float | None) -> None:
    """Refuse numbers that cannot be used, None standing for 'not given'.

    Raises:
        UsageError: they are not numbers, or mean and scale are of different units, such as 0.485 of frames of
            0 to 255: nothing would fail, and the labels would be wrong.
    """
    if scale is not None and not (_is_number(scale) and scale > 0):
        raise UsageError(f"scale must be a number above 0, such as 1/255, not {scale!r}")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not _are_three(values):
            raise UsageError(f"{name} is three numbers, one a channel, not {values!r}")
    if std is not None and not all(value > 0 for value in std):
        raise UsageError(f"std is three numbers above 0, not {std!r}")
    if mean is not None:
        _refuse_units(mean, scale)


def _refuse_units(mean: Sequence[float], scale: float | None) -> None:
    """Refuse a mean of frames of 0 to 1 without a scale, and one of frames of 0 to 255 with it."""
    largest = max(abs(value) for value in mean)
    if scale is None and 0 < largest <= 1:
        raise UsageError(
            f"mean {_listed(mean)} is of frames of 0 to 1, and frames come as 0 to 255; add "
            "--scale 1/255 (or --scale 1, if it really is subtracted from 0 to 255)"
        )
    if scale is not None and scale <= 0.01 and largest > 2:
        raise UsageError(
            f"mean {_listed(mean)} is of frames of 0 to 255, and --scale {scale:.4g} makes 0 to 1 of "
            "them first; leave out --scale, or divide mean and std by 255"
        )


def _are_three(values: object) -> bool:
    listed = list(values) if isinstance(values, Iterable) else []
    return len(listed) == 3 and all(map(_is_number, listed))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _ordered(values: list[float], trained_on: str) -> Triple:
    first, second, third = values if trained_on == "bgr" else values[::-1]
    return first, second, third


def order_warning(mean: Triple | None, scale: float | None, trained_on: str) -> tuple[str, ...]:
    """A sentence where ImageNet's mean, which is copied from training code so often, is in the other order.

    Args: as those of :func:`to_spec`.
    """
    if mean is None:
        return ()
    wrong = IMAGENET_MEAN[::-1] if trained_on == "bgr" else IMAGENET_MEAN
    pairs = zip(mean, wrong, strict=True)
    if not all(math.isclose(value / (scale or 1.0), 255 * one, rel_tol=1e-3) for value, one in pairs):
        return ()
    other = "rgb" if trained_on == "bgr" else "bgr"
    return (
        f"mean {_listed(mean)} is taken in the order {trained_on}, that of the "
        f"training; it is ImageNet's in the order {other}: reverse mean and std, or say --trained-on "
        f"{other}, unless the training really did that",
    )
