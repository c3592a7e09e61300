"""Any module that the user can build, as a Network: which of its outputs, at which size, in which classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fcn_deploy.errors import ModelError, UsageError, first_line
from fcn_deploy.model.network import Network, dtype_of
from fcn_deploy.spec import Architecture

_PROBED = 192
"""Rows and columns of the frame that a module is tried with first, at least; raised to its size multiple."""
_ODD = (97, 131)
"""Rows and columns of a frame that shows whether a module takes any size, or any multiple of some size."""
_POWERS = tuple(2**power for power in range(1, 9))
_MULTIPLES = (*_POWERS, *(number for number in range(3, 65) if number not in _POWERS))
"""Size multiples that are tried for a module that does not take any size, the usual ones first."""
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
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
        number = isinstance(self.threshold, Real) and not isinstance(self.threshold, bool)
        if self.threshold is not None and not (number and 0 < self.threshold < 1):
            raise UsageError(f"threshold is a probability between 0 and 1, not {self.threshold!r}")


@final
class UserNetwork(Network):
    """A copy of a module of the user's, with what :class:`ModuleOptions` says about it.

    Args:
        module: takes float ``[N, 3, H, W]`` and gives logits ``[N, classes, h, w]``: as a tensor, as the
            first of a tuple or list of tensors, or under ``out`` in a mapping. It is not changed.
        options: what it does not say.

    Raises:
        UsageError: the options do not fit what it gives.
        ModelError: it fails, or gives something else; says what.
    """

    def __init__(self, module: nn.Module, options: ModuleOptions) -> None:
        super().__init__()
        self.module = own_copy(module)
        self.options = options
        self.channel_order = options.channel_order
        self.size_multiple = options.size_multiple
        channels = self._check_sizes()
        if channels > 1 and options.threshold is not None:
            raise UsageError(f"threshold is for one channel of logits, and {self.name} gives {channels}")
        if not 1 <= channels <= 255:
            raise ModelError(f"{self.name} gives {channels} channels; 1 to 255 are possible")
        self.num_classes = max(2, channels)
        if channels == 1:
            self.threshold = 0.5 if options.threshold is None else float(options.threshold)

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

    def _run(self, height: int, width: int) -> Tensor:
        """The module's own logits of a black frame. Raises whatever the user's code raises."""
        frames = torch.zeros(1, 3, height, width, dtype=dtype_of(self.module))
        with torch.inference_mode():
            found = self.module(frames)
        return _pick(found, self.name)

    def _check_sizes(self) -> int:
        """How many channels the logits have, after their size was checked.

        Raises:
            UsageError: they have another size than stated, or frames have to be padded; says what helps.
            ModelError: the module fails, or gives something else than logits.
        """
        side = self._raised(_PROBED, _PROBED)
        try:
            logits = self._run(*side)
        except ModelError:
            raise
        except Exception as exc:  # whatever the user's code raises
            raise self._failed(exc, *side) from exc
        self._check_size(logits, *side)
        odd = self._raised(*_ODD)
        if not self._takes(*odd):
            said = self._padding(self._takes) or "such a module cannot be deployed for frames of any size"
            raise UsageError(
                f"{self.name} does not give logits for every pixel of {odd[0]}x{odd[1]} frames; {said}"
            )
        return logits.shape[1]

    def _raised(self, height: int, width: int, multiple: int | None = None) -> tuple[int, int]:
        """A size raised to whole blocks of the size multiple, or of another one.

        The numbers of blocks are odd and have no common factor, so that no larger multiple fits by chance.
        """
        block = self.size_multiple if multiple is None else multiple
        if block == 1:
            return height, width
        rows, columns = (math.ceil(length / block) | 1 for length in (height, width))
        return rows * block, (columns if math.gcd(rows, columns) == 1 else rows + 2) * block

    def _failed(self, exc: Exception, height: int, width: int) -> Exception:
        """What to raise where the module fails on a frame of this size."""
        said = f"{self.name} fails on a frame of {height}x{width} ({type(exc).__name__}: {first_line(exc)})"
        if padding := self._padding(self._answers):
            return UsageError(f"{said}; {padding}")
        return ModelError(
            f"{said}; a module must take float [N, 3, H, W]; where it takes one size only, export it to ONNX "
            "and use: fcn-deploy wrap"
        )

    def _padding(self, takes: Callable[[int, int], bool]) -> str | None:
        """The size multiple that helps a module that does not take a size, in words; None where none does."""
        multiple = next((m for m in _MULTIPLES if takes(*self._raised(*_ODD, m))), None)
        return None if multiple is None else f"give --size-multiple {multiple}, which pads them in the graph"

    def _answers(self, height: int, width: int) -> bool:
        """Whether the module gives logits, of whatever size, for a frame of this one."""
        try:
            self._run(height, width)
        except Exception:  # whatever the user's code raises for a frame that it does not take
            return False
        return True

    def _takes(self, height: int, width: int) -> bool:
        """Whether the module gives logits of the stated size for a frame of this one."""
        try:
            found = self._run(height, width).shape[-2:]
        except Exception:  # whatever the user's code raises for a frame that it does not take
            return False
        return _is_smaller(found, (height, width), self.options.logits_stride or 1)

    def _check_size(self, logits: Tensor, height: int, width: int) -> None:
        """Refuse logits of another size than stated."""
        found, stride = tuple(logits.shape[-2:]), self.options.logits_stride
        if _is_smaller(found, (height, width), stride or 1):
            return
        fits = round(height / max(1, found[0]))
        if found == (height, width):
            said = "leave --logits-stride out"
        elif fits > 1 and _is_smaller(found, (height, width), fits):
            said = f"give --logits-stride {fits}"
        else:
            said = "resize or crop them to the frame in the module"
        means = "" if stride is None else f", not of {height // stride}x{width // stride},"
        raise UsageError(
            f"{self.name} gives logits of {found[0]}x{found[1]}{means} for a frame of {height}x{width}; "
            + said
        )


def own_copy(module: nn.Module) -> nn.Module:
    """A copy of a module as it is deployed: on the CPU, in float32, in evaluation mode.

    What DataParallel and torch.compile put around it is taken off.

    Raises:
        ModelError: it is TorchScript, cannot be copied, or its weights are no numbers.
    """
    while (compiled := hasattr(module, "_orig_mod")) or isinstance(module, _PARALLEL):
        module = cast("nn.Module", module._orig_mod if compiled else module.module)
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"{name} is a TorchScript module; give the Python module that it was made of")
    _check_weights(module)
    try:
        return copy.deepcopy(module).cpu().float().eval()
    except Exception as exc:  # whatever the user's tensors and attributes raise
        raise ModelError(
            f"{name} cannot be copied ({type(exc).__name__}: {first_line(exc)}); build it anew, and load its "
            "state_dict"
        ) from exc


def _is_smaller(found: Sequence[int], frame: Sequence[int], stride: int) -> bool:
    """Whether logits have the size of a frame over a stride, rounded down or up."""
    pairs = zip(found, frame, strict=True)
    return all(have in (length // stride, -(-length // stride)) for have, length in pairs)


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
                logits = network(frames)
        except Exception:  # whatever a user's code raises for a frame that is too small
            continue
        if not logits.isnan().any():  # a standard deviation of one pixel is not a number
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
    """Refuse weights without numbers. Raises ModelError."""
    for key, value in module.state_dict().items():
        if is_lazy(value) or value.is_meta:
            raise ModelError(
                f"{key} of {type(module).__name__} has no numbers yet; initialise the module first"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{key} of {type(module).__name__} holds NaN or infinite values")
