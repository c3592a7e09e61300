"""Optimization profiles: the ranges of frames that an engine was built for, and which one serves a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fcn_deploy.errors import SourceError

Size = tuple[int, int, int]
"""Batch, height and width."""


@dataclass(frozen=True)
class Profile:
    """One optimization profile, each bound as batch, height and width."""

    index: int
    """Its number in the engine."""
    smallest: Size
    tuned: Size
    """What the builder chose its kernels for (``opt``)."""
    largest: Size

    def fits(self, size: Size) -> bool:
        """Whether frames of this size may go through it."""
        return all(low <= n <= high for low, n, high in zip(self.smallest, size, self.largest, strict=True))

    def distance(self, size: Size) -> float:
        """How far ``size`` is from what was tuned for: 0 for as many pixels, symmetric in ratios."""
        return abs(math.log(math.prod(size) / math.prod(self.tuned)))

    def __str__(self) -> str:
        return ":".join("x".join(map(str, size)) for size in (self.smallest, self.tuned, self.largest))


def choose(profiles: Sequence[Profile], size: Size) -> Profile:
    """The profile for frames of this size.

    Of those that it fits, the one whose ``opt`` has the most similar number of pixels, because its
    kernels were chosen there; of equals the one with the smaller maximum, then the first.

    Raises:
        SourceError: it fits none; names all of them.
    """
    fitting = [profile for profile in profiles if profile.fits(size)]
    if not fitting:
        batch, height, width = size
        raise SourceError(
            f"a batch of {batch} frames of {height}x{width} fits no optimization profile of this engine "
            f"(batch x height x width, min:opt:max): {', '.join(map(str, profiles))}; scale the frames, or "
            f"build the engine with another --profile"
        )
    return min(fitting, key=lambda p: (p.distance(size), math.prod(p.largest), p.index))


def max_batch(profiles: Sequence[Profile]) -> int:
    """The batch up to which any number of frames fits, of every size that the engine takes one frame of.

    Each profile counts with its largest batch, or a larger one where others take all of its heights and
    widths and go on from there; the smallest of these is the answer. Profiles that take no single frame
    count only where none does.
    """
    single = [profile for profile in profiles if profile.smallest[0] == 1]
    return min(_reach(profile, profiles) for profile in single or profiles)


def _reach(profile: Profile, profiles: Sequence[Profile]) -> int:
    """How far batches go, without a gap, for every height and width that ``profile`` takes."""
    reach = profile.largest[0]
    for other in sorted(profiles, key=lambda p: p.smallest[0]):
        covers = all(
            other.smallest[axis] <= profile.smallest[axis] and profile.largest[axis] <= other.largest[axis]
            for axis in (1, 2)
        )
        if covers and other.smallest[0] <= reach + 1:
            reach = max(reach, other.largest[0])
    return reach


def most_pixels(profiles: Sequence[Profile]) -> int:
    """Pixels of the largest batch that any profile takes: what buffers are sized for."""
    return max(math.prod(profile.largest) for profile in profiles)
