"""Optimization profiles: the ranges of frame sizes that an engine takes, and which one a frame uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fcn_deploy.errors import SourceError

Size = tuple[int, int, int]
"""Batch, height and width."""


@dataclass(frozen=True)
class Profile:
    """One optimization profile; its sizes are named as TensorRT names them."""

    index: int
    """Its number in the engine."""
    min: Size
    opt: Size
    """The size that the builder chose its kernels for."""
    max: Size

    def fits(self, size: Size) -> bool:
        """Whether it takes frames of this size."""
        return all(low <= n <= high for low, n, high in zip(self.min, size, self.max, strict=True))

    def distance(self, size: Size) -> float:
        """How far ``size`` is from ``opt``: the absolute logarithm of the ratio of their pixels."""
        return abs(math.log(math.prod(size) / math.prod(self.opt)))

    def __str__(self) -> str:
        return ":".join("x".join(map(str, size)) for size in (self.min, self.opt, self.max))


def choose(profiles: Sequence[Profile], size: Size) -> Profile:
    """The profile for frames of this size.

    Of those that fit, the one whose ``opt`` has the most similar number of pixels, because its kernels
    were chosen for that; of equals the one with the smaller ``max``, then the first.

    Raises:
        SourceError: none fits; names all of them.
    """
    fitting = [profile for profile in profiles if profile.fits(size)]
    if not fitting:
        batch, height, width = size
        raise SourceError(
            f"a batch of {batch} frames of {height}x{width} fits no optimization profile of this engine "
            f"(batch x height x width, min:opt:max): {', '.join(map(str, profiles))}; scale the frames, or "
            f"build the engine with another --profile"
        )
    return min(fitting, key=lambda p: (p.distance(size), math.prod(p.max), p.index))


def max_batch(profiles: Sequence[Profile]) -> int:
    """The largest batch that the engine takes of every height and width that it takes a single frame of.

    Every smaller batch is taken too. For each profile that is its largest batch, or a larger one where
    other profiles take all of its heights and widths in the batches that follow; the smallest of these is
    returned. Profiles that take no single frame are left out, unless none takes one.
    """
    single = [profile for profile in profiles if profile.min[0] == 1]
    return min(_reach(profile, profiles) for profile in single or profiles)


def _reach(profile: Profile, profiles: Sequence[Profile]) -> int:
    """The largest batch, with no gap below it, of every height and width that ``profile`` takes."""
    reach = profile.max[0]
    for other in sorted(profiles, key=lambda p: p.min[0]):
        covers = all(
            other.min[axis] <= profile.min[axis] and profile.max[axis] <= other.max[axis] for axis in (1, 2)
        )
        if covers and other.min[0] <= reach + 1:
            reach = max(reach, other.max[0])
    return reach


def most_pixels(profiles: Sequence[Profile]) -> int:
    """Pixels of the largest batch that any profile takes: what buffers are sized for."""
    return max(math.prod(profile.max) for profile in profiles)
