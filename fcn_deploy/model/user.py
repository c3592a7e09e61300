"""Any module that the user can build, as a Network: which of its outputs, at which size, in which classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcn_deploy.errors import ModelError, UsageError, first_line
from fcn_deploy.model.network import Network, dtype_of
from fcn_deploy.spec import Architecture

_PROBED = 192
"""Rows and columns of the frame that a module is tried with, at least; raised to its size multiple."""
_ODD = (97, 131)
"""Rows and columns of a frame that shows whether a module takes any size."""
_SMALL = (1, 2, 4, 8, 16, 32, 64, 128)
"""Frames of so many blocks are tried to find the smallest that a module takes."""


@dataclass(frozen=True)
class ModuleOptions:
    """What a module does not say about itself.

    Raises:
        UsageError: a number is out of range.
    """

    channel_order: str = "rgb"
    """``rgb`` or ``bgr``: of the frames that it was trained on."""
    size_multiple: int = 1
    """It takes multiples of so many rows and columns only; frames are padded inside the graph."""
    logits_stride: int | None = None
    """Its logits are smaller than the frame by this factor, and are resized bilinearly; None where not."""
    align_corners: bool = False
    """Of that resize, as :func:`torch.nn.functional.interpolate` has it."""
    threshold: float | None = None
    """For one channel of logits: class 1 is where its sigmoid is above it; None stands for 0.5."""
    factory: str | None = None
    """How it was named, for its description."""

    def __post_init__(self) -> None:
        if self.size_multiple < 1:
            raise UsageError(f"size_multiple must be at least 1, not {self.size_multiple}")
        if self.logits_stride is not None and self.logits_stride < 2:
            raise UsageError(
                f"logits_stride must be at least 2, not {self.logits_stride}; leave it out where logits have "
                "the size of the frame"
            )
        if self.align_corners and self.logits_stride is None:
            raise UsageError("align_corners is about resizing logits; give logits_stride too")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(f"threshold is a probability between 0 and 1, not {self.threshold}")


@final
class UserNetwork(Network):
    """A module of the user's, with what :class:`ModuleOptions` says about it.

    Args:
        module: takes float ``[N, 3, H, W]`` and gives logits ``[N, classes, h, w]``: as a tensor, as the
            first of a tuple or list of tensors, or under ``out`` in a mapping.
        options: what it does not say.

    Raises:
        UsageError: the options do not fit what it gives.
        ModelError: it fails, or gives something else; says what.
    """

    def __init__(self, module: nn.Module, options: ModuleOptions) -> None:
        super().__init__()
        self.module = module.float().eval()
        self.options = options
        self.channel_order = options.channel_order
        self.size_multiple = options.size_multiple
        _check_weights(module)
        logits, side = self._probe()
        self._check_size(logits, side)
        if options.size_multiple == 1:
            self._check_odd()
        channels = logits.shape[1]
        if channels > 1 and options.threshold is not None:
            raise UsageError(f"threshold is for one channel of logits, and {self.name} gives {channels}")
        if channels > 255:
            raise ModelError(f"{self.name} gives {channels} channels; 255 classes are the most")
        self.num_classes = max(2, channels)
        if channels == 1:
            self.threshold = 0.5 if options.threshold is None else options.threshold

    @property
    def name(self) -> str:
        """The name of the module's class."""
        return type(self.module).__name__

    @property
    def architecture(self) -> Architecture:
        stated = {
            "channel_order": self.channel_order,
            "factory": self.options.factory,
            "logits_stride": self.options.logits_stride,
            "align_corners": self.options.align_corners or None,
        }
        return Architecture(self.name, {key: value for key, value in stated.items() if value is not None})

    def forward(self, frames: Tensor) -> Tensor:
        logits = _pick(self.module(frames), self.name)
        if self.options.logits_stride is not None:
            logits = self._resized(logits, frames)
        if self.threshold is not None:
            # Class 0 has the logit of the threshold, so that the larger of the two decides.
            bound = math.log(self.threshold / (1 - self.threshold))
            logits = torch.cat([torch.full_like(logits, bound), logits], dim=1)
        return logits

    def smallest(self) -> int:
        """Rows and columns of the smallest frame that it takes."""
        return smallest_side(self)

    def _resized(self, logits: Tensor, frames: Tensor) -> Tensor:
        stride = self.options.logits_stride
        assert stride is not None
        if self.size_multiple % stride == 0 and not self.options.align_corners:
            return F.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
        size = list(frames.shape[-2:])
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.options.align_corners)

    def _probe(self) -> tuple[Tensor, int]:
        """What the module gives for a frame, and the frame's rows and columns."""
        multiple = self.size_multiple
        side = math.ceil(_PROBED / multiple) * multiple
        frames = torch.zeros(1, 3, side, side, dtype=dtype_of(self.module))
        try:
            with torch.inference_mode():
                found = self.module(frames)
        except Exception as exc:  # whatever the user's code raises
            raise ModelError(
                f"{self.name} fails on a frame of {side}x{side} ({type(exc).__name__}: {first_line(exc)}); a "
                "module must take float [N, 3, H, W]"
            ) from exc
        return _pick(found, self.name), side

    def _check_odd(self) -> None:
        """Refuse a module that takes multiples of some size only, and say of which."""
        if self._takes(*_ODD):
            return
        multiples = (2**power for power in range(1, 9))
        fits = next((m for m in multiples if self._takes(*(math.ceil(n / m) * m for n in _ODD))), None)
        height, width = _ODD
        said = (
            "such a module cannot be deployed for frames of any size"
            if fits is None
            else (f"give --size-multiple {fits}, which pads them in the graph")
        )
        raise UsageError(
            f"{self.name} does not give logits for every pixel of {height}x{width} frames; {said}"
        )

    def _takes(self, height: int, width: int) -> bool:
        """Whether the module gives logits of the stated size for a frame of this one."""
        try:
            with torch.inference_mode():
                logits = _pick(self.module(torch.zeros(1, 3, height, width)), self.name)
        except Exception:  # whatever the user's code raises for a frame that it does not take
            return False
        stride = self.options.logits_stride
        if stride is None:
            return logits.shape[-2:] == (height, width)
        pairs = zip(logits.shape[-2:], (height, width), strict=True)
        return all(found in (length // stride, -(-length // stride)) for found, length in pairs)

    def _check_size(self, logits: Tensor, side: int) -> None:
        """Refuse logits of another size than stated."""
        height, width = logits.shape[-2:]
        stride = self.options.logits_stride
        if stride is None and (height, width) != (side, side):
            factor = side / height
            said = f"give --logits-stride {round(factor)}" if factor > 1 else "crop them in the module"
            raise UsageError(
                f"{self.name} gives logits of {height}x{width} for a frame of {side}x{side}; {said}"
            )
        if stride is not None and not (side // stride <= min(height, width) <= -(-side // stride)):
            raise UsageError(
                f"{self.name} gives logits of {height}x{width} for a frame of {side}x{side}, and a logits "
                f"stride of {stride} means {side // stride}; give --logits-stride {round(side / height)}"
            )


def smallest_side(network: Network) -> int:
    """Rows and columns of the smallest frame that a network takes, to a power of two of its size multiple.

    Raises:
        ModelError: it takes none of those that are tried.
    """
    multiple = network.size_multiple
    for blocks in _SMALL:
        frames = torch.zeros(1, 3, blocks * multiple, blocks * multiple, dtype=dtype_of(network))
        try:
            with torch.inference_mode():
                network(frames)
        except Exception:  # whatever a user's code raises for a frame that is too small
            continue
        return (blocks - 1) * multiple + 1
    raise ModelError(
        f"{network.architecture.name} takes no frame up to {_SMALL[-1] * multiple} rows and columns"
    )


def _pick(found: Any, name: str) -> Tensor:
    """The logits in what a module returns."""
    if isinstance(found, Mapping):
        if "out" not in found:
            raise ModelError(
                f"{name} returns a mapping with {', '.join(map(str, list(found)[:5]))}; logits are expected "
                "under 'out': wrap it in a module that returns them"
            )
        found = found["out"]
    elif isinstance(found, (tuple, list)) and len(found):
        found = found[0]
    if not isinstance(found, Tensor):
        raise ModelError(f"{name} returns {type(found).__name__}; a tensor of logits is expected")
    if found.ndim != 4 or not found.is_floating_point():
        raise ModelError(
            f"{name} returns {str(found.dtype).removeprefix('torch.')} of shape {list(found.shape)}; logits "
            "are floating point [N, classes, H, W]"
        )
    return found


def _check_weights(module: nn.Module) -> None:
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{key} of {type(module).__name__} holds NaN or infinite values")
