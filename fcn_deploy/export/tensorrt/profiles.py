"""Optimization profiles: read from text, defaults, and checks against the model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size
from fcn_deploy.spec import ModelSpec

_EXAMPLE = "1x360x480:1x720x960:4x1080x1920, or one size such as 1x360x480"

_DEFAULT_OPT = (1, 360, 480)

_DEFAULT_MAX = (1, 1080, 1920)


def parse_profile(text: str, index: int = 0) -> Profile:
    """``1x360x480:1x720x960:4x1080x1920`` (min:opt:max, batch x height x width), or one size for all three.

    Raises:
        UsageError: anything else, or not min <= opt <= max.
    """
    sizes = [_size(part, text) for part in text.strip().lower().split(":")]
    if len(sizes) not in (1, 3):
        raise UsageError(f"the profile {text} has {len(sizes)} sizes; expected min:opt:max as in {_EXAMPLE}")
    min_, opt, max_ = sizes if len(sizes) == 3 else sizes * 3
    for axis, low, mid, high in zip(("batch", "height", "width"), min_, opt, max_, strict=True):
        if not low <= mid <= high:
            raise UsageError(
                f"the profile {text} is not in order: its {axis} is {low} : {mid} : {high}, expected "
                "min <= opt <= max"
            )
    return Profile(index, min_, opt, max_)


def _size(part: str, text: str) -> Size:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,6})x(\d{1,6})", part)
    if not match or 0 in (size := (int(match[1]), int(match[2]), int(match[3]))):
        raise UsageError(
            f"the profile {text} cannot be read: expected batch x height x width as in {_EXAMPLE}"
        )
    return size


def default_profiles(spec: ModelSpec) -> tuple[Profile, ...]:
    """One profile: single frames of every size up to Full HD or the model's limit, tuned for 360x480."""
    limit = (1, spec.max_height, spec.max_width)
    return (Profile(0, (1, 1, 1), _within(_DEFAULT_OPT, limit), _within(_DEFAULT_MAX, limit)),)


def _within(size: Size, limit: Size) -> Size:
    return (min(size[0], limit[0]), min(size[1], limit[1]), min(size[2], limit[2]))


def check_profiles(profiles: Sequence[Profile], spec: ModelSpec) -> tuple[Profile, ...]:
    """``profiles`` numbered in order, all within the largest frame that the model accepts.

    Raises:
        UsageError: one is larger than the model's limit, or two are the same.
    """
    numbered = tuple(Profile(index, p.min, p.opt, p.max) for index, p in enumerate(profiles))
    for profile in numbered:
        if profile.max[1] > spec.max_height or profile.max[2] > spec.max_width:
            raise UsageError(
                f"the profile {profile} is larger than this model's limit of {spec.max_height}x"
                f"{spec.max_width}; make it smaller, or export with a higher --max-size"
            )
    if len({str(profile) for profile in numbered}) < len(numbered):
        raise UsageError("two profiles are the same; give each once")
    return numbered


def is_static(profiles: Sequence[Profile]) -> bool:
    """Whether the engine accepts one size only."""
    return len(profiles) == 1 and profiles[0].min == profiles[0].max
