"""Optimization profiles: read from text, defaults, and checks against the model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fcn_deploy.errors import UsageError
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size
from fcn_deploy.spec import ModelSpec

_EXAMPLE = "1x360x480:1x720x960:4x1080x1920, or one size such as 1x360x480"

_AXES = ("batch", "height", "width")

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
    for axis, low, mid, high in zip(_AXES, min_, opt, max_, strict=True):
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
    """One profile: single frames of every size up to Full HD or the model's limit, tuned for 360x480.

    Lengths that are fixed in the graph are those of the profile.
    """
    low, high = (1, spec.min_height, spec.min_width), (1, spec.max_height, spec.max_width)
    min_, opt, max_ = (_within(size, low, high, spec) for size in (low, _DEFAULT_OPT, _DEFAULT_MAX))
    return (Profile(0, min_, opt, max_),)


def _within(size: Size, low: Size, high: Size, spec: ModelSpec) -> Size:
    batch, height, width = (
        fixed or min(max(length, smallest), largest)
        for length, smallest, largest, fixed in zip(size, low, high, spec.fixed_shape, strict=True)
    )
    return (batch, height, width)


def check_profiles(profiles: Sequence[Profile], spec: ModelSpec) -> tuple[Profile, ...]:
    """``profiles`` numbered in order, all within the frames that the model accepts.

    Raises:
        UsageError: one is outside the model's limits, or two are the same.
    """
    numbered = tuple(Profile(index, p.min, p.opt, p.max) for index, p in enumerate(profiles))
    for profile in numbered:
        if profile.max[1] > spec.max_height or profile.max[2] > spec.max_width:
            raise UsageError(
                f"the profile {profile} is larger than this model's limit of {spec.max_height}x"
                f"{spec.max_width}; make it smaller, or export with a higher --max-size"
            )
        if profile.min[1] < spec.min_height or profile.min[2] < spec.min_width:
            raise UsageError(
                f"the profile {profile} begins below {spec.min_height}x{spec.min_width}, the smallest frame "
                "that this model takes; make it larger"
            )
        _check_fixed(profile, spec)
    if len({str(profile) for profile in numbered}) < len(numbered):
        raise UsageError("two profiles are the same; give each once")
    return numbered


def _check_fixed(profile: Profile, spec: ModelSpec) -> None:
    """Refuse a profile with other lengths than those that are fixed in the graph."""
    for place, (axis, fixed) in enumerate(zip(_AXES, spec.fixed_shape, strict=True)):
        lengths = {size[place] for size in (profile.min, profile.opt, profile.max)}
        if fixed is not None and lengths != {fixed}:
            only = "x".join(str(length or "any") for length in spec.fixed_shape)
            raise UsageError(
                f"the profile {profile} has another {axis} than {fixed}, and this model takes {only} (batch "
                "x height x width) only; leave --profile out"
            )


def is_static(profiles: Sequence[Profile]) -> bool:
    """Whether the engine accepts one size only."""
    return len(profiles) == 1 and profiles[0].min == profiles[0].max
