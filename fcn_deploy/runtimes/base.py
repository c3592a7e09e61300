"""What every backend is: a Runtime that checks frames once and delegates one short ``_infer``.

A backend is one module with one final class. It says whether it can run here
(:meth:`Runtime.unavailable`), opens an artefact (its constructor) and answers
(:meth:`Runtime._infer`); everything a caller may get wrong is caught here, the same for all.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import FcnDeployError, InferenceError, SourceError, UsageError
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from fcn_deploy.runtimes.cuda.arrays import DeviceSegmentation

Frames = NDArray[np.uint8]
"""uint8 ``[N, H, W, 3]`` in the colour order that the spec names."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How an artefact is opened. Not every backend has a use for every option."""

    device: str | None = None
    """``cpu``, ``cuda`` or ``cuda:N``; None takes the best that is available."""
    threads: int | None = None
    """Threads of a CPU backend; None takes every core that this process may use."""
    provider: str | None = None
    """ONNX Runtime's provider: ``cpu``, ``cuda`` or ``tensorrt``; None follows ``device``."""
    allow_fallback: bool = False
    """Accept the CPU where the device or provider asked for cannot run."""
    optimization: str = "all"
    """ONNX Runtime's graph optimisation: ``none``, ``basic``, ``extended`` or ``all``."""
    spinning: bool = True
    """Whether idle threads of ONNX Runtime spin: lower latency, and a core kept busy."""
    cuda_binding: str | None = None
    """How an engine reaches the GPU: ``cuda-python`` or ``pycuda``; None takes the first installed."""
    expect_sha256: str | None = None
    """Hash that an engine must have, 64 hexadecimal digits known from elsewhere; None trusts the sidecar."""


@dataclass(frozen=True)
class Segmentation:
    """What a runtime answers for a batch of frames."""

    labels: NDArray[np.uint8]
    """Class ids, uint8 ``[N, H, W]``."""
    spec: ModelSpec
    confidence: NDArray[np.float32] | None = None
    """Probability of the winning class, float32 ``[N, H, W]`` from 0 to 1; None if not exported."""
    logits: NDArray[np.float32] | None = None
    """Class scores, float32 ``[N, classes, H, W]``; None if not exported."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Segmentation:
        """The answer for one frame, still with a batch axis of length 1."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a batch of {len(self)}")
        one = slice(index % len(self), index % len(self) + 1)
        return Segmentation(
            labels=self.labels[one],
            spec=self.spec,
            confidence=None if self.confidence is None else self.confidence[one],
            logits=None if self.logits is None else self.logits[one],
        )


class Runtime(ABC):
    """One artefact, opened on one device. Not thread-safe; a Segmenter around it is."""

    backend: ClassVar[str]
    """The name in the registry."""
    concurrency: ClassVar[int] = 1
    """How many threads may be in ``infer`` at once; a backend that copies one frame while another is
    computed says 2."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self.spec = spec
        self.device = device
        """What really runs it, such as ``cpu`` or ``cuda:0``."""
        self.precision = spec.precision
        self._closed = False

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why this backend cannot run on this machine, in words; None where it can."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, options: RuntimeOptions) -> Runtime:
        """Open an artefact. Raises an :class:`FcnDeployError` that names the file."""

    @abstractmethod
    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        """Answer checked, contiguous frames: output name -> array, as in the deploy graph."""

    @abstractmethod
    def _release(self) -> None:
        """Free what was opened; called once."""

    @property
    def max_batch(self) -> int | None:
        """Frames that one call takes at most; None where any number may be given."""
        return None

    def details(self) -> dict[str, Any]:
        """What a report should state about how it runs (provider, threads, versions)."""
        return {}

    def device_times(self) -> dict[str, float]:
        """Milliseconds that the device spent on the last answer, by stage; empty where it does not tell."""
        return {}

    @final
    def infer(self, images: Frames) -> Segmentation:
        """Label each pixel of a batch of frames.

        Args:
            images: uint8 ``[N, H, W, 3]`` in the colour order of ``spec.color_order``. An array
                that is not contiguous is copied first.

        Raises:
            SourceError: the array has another dtype, shape or a size outside the spec's limits.
            InferenceError: the backend failed, answered another size than it was asked for, or the
                runtime is closed.
        """
        self._require_open()
        checked = check_frames(images, self.spec)
        with self._mapped_errors(f"frames of shape {checked.shape}"):
            outputs = self._infer(checked)
        labels = outputs["labels"]
        if labels.shape != checked.shape[:3] or labels.dtype != np.uint8:
            raise InferenceError(
                f"{self.backend} answered {labels.dtype} labels of shape {labels.shape} for frames of shape "
                f"{checked.shape}; expected uint8 {checked.shape[:3]}"
            )
        return Segmentation(
            labels=labels,
            spec=self.spec,
            confidence=outputs.get("confidence"),
            logits=outputs.get("logits"),
        )

    @final
    def close(self) -> None:
        """Free the model; closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._release()

    def _require_open(self) -> None:
        if self._closed:
            raise InferenceError(f"this {self.backend} runtime is closed; load the artefact again")

    @contextmanager
    def _mapped_errors(self, what: str) -> Iterator[None]:
        """A vendor's error of any class is one InferenceError to the caller."""
        try:
            yield
        except FcnDeployError:
            raise
        except Exception as exc:
            raise InferenceError(f"{self.backend} failed on {what}: {first_line(exc)}") from exc

    @final
    def __enter__(self) -> Runtime:
        return self

    @final
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DeviceRuntime(Runtime):
    """A runtime that also takes frames that lie on its device already."""

    @abstractmethod
    def _infer_device(self, images: Any) -> DeviceSegmentation:
        """As :meth:`Segmenter.infer_device` says; frames are not checked yet."""

    @final
    def infer_device(self, images: Any) -> DeviceSegmentation:
        """As :meth:`Segmenter.infer_device`, which see."""
        self._require_open()
        with self._mapped_errors("frames on the device"):
            return self._infer_device(images)


def check_frames(images: Any, spec: ModelSpec) -> Frames:
    """``images`` as contiguous uint8 ``[N, H, W, 3]``.

    Raises:
        SourceError: states the shape and dtype expected and found, and the usual remedy.
    """
    if not isinstance(images, np.ndarray):
        raise SourceError(f"frames must be a numpy array, not {type(images).__name__}")
    if images.dtype != np.uint8:
        hint = "; hand over the camera's own 0..255 bytes, normalising is part of the model"
        raise SourceError(f"frames must be uint8, not {images.dtype}{hint}")
    check_frame_shape(images.shape, spec)
    return np.ascontiguousarray(images)


def check_frame_shape(shape: tuple[int, ...], spec: ModelSpec) -> None:
    """Raises SourceError where a shape is not ``[N, H, W, 3]`` within the limits of ``spec``."""
    if len(shape) != 4 or shape[-1] != 3:
        raise SourceError(
            "a frame must be [height, width, 3] and a batch of them [batch, height, width, 3], "
            f"found shape {shape}{_shape_hint(shape)}"
        )
    batch, height, width, _ = shape
    if batch < 1 or height < 1 or width < 1:
        raise SourceError(f"frames must not be empty, found shape {shape}")
    if height > spec.max_height or width > spec.max_width:
        raise SourceError(
            f"a frame of {height}x{width} is larger than this model's limit of "
            f"{spec.max_height}x{spec.max_width}; scale it down, or export with a higher limit"
        )


def _shape_hint(shape: tuple[int, ...]) -> str:
    if shape[-1:] == (4,):
        return "; drop the fourth channel: frame[..., :3]"
    if len(shape) == 3 and shape[-1] == 3:
        return "; add a batch axis: frame[None]"
    if len(shape) in (3, 4) and shape[-3] == 3:
        return "; channels come last: np.moveaxis(frames, -3, -1)"
    if len(shape) == 2 or shape[-1:] == (1,):
        return "; a grayscale frame needs three equal channels: np.repeat(frame[..., None], 3, -1)"
    return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_options(options: RuntimeOptions) -> None:
    """Raises :class:`UsageError` where an option is out of range or two contradict each other."""
    if options.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise UsageError(f"unknown device {options.device!r}; choose cpu, cuda or cuda:N")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"threads must be at least 1, not {options.threads}")
    if options.provider not in (None, "cpu", "cuda", "tensorrt"):
        raise UsageError(f"unknown provider {options.provider!r}; choose cpu, cuda or tensorrt")
    if None not in (options.device, options.provider) and (
        (options.device == "cpu") != (options.provider == "cpu")
    ):
        raise UsageError(
            f"device {options.device} and provider {options.provider} contradict each other; give one of them"
        )
    if options.optimization not in ("none", "basic", "extended", "all"):
        raise UsageError(
            f"unknown optimization {options.optimization!r}; choose none, basic, extended or all"
        )


def cuda_index(device: str | None) -> int:
    """The N of ``cuda:N``; 0 where none is given."""
    return int((device or "").partition(":")[2] or 0)


def usable_cores() -> int:
    """CPU cores that this process may run on (``taskset`` and containers' CPU sets count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
