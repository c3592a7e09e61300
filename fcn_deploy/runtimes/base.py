"""An opened artefact: a Runtime checks frames, the same for all backends, and calls one ``_infer``."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import FcnDeployError, InferenceError, SourceError, first_line
from fcn_deploy.spec import ModelSpec

Frames = NDArray[np.uint8]
"""uint8 ``[N, H, W, 3]`` in the colour order that the spec names."""


@dataclass(frozen=True)
class Segmentation:
    """The result for a batch of frames."""

    labels: NDArray[np.uint8]
    """Class ids, uint8 ``[N, H, W]``."""
    spec: ModelSpec
    """The model's description, with the names and colours of the classes."""
    confidence: NDArray[np.float32] | None = None
    """Probability of the winning class, float32 ``[N, H, W]`` from 0 to 1; None if not exported."""
    logits: NDArray[np.float32] | None = None
    """Class scores, float32 ``[N, classes, H, W]``; None if not exported."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Segmentation:
        """The result for one frame, still with a batch axis of length 1."""
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
    """The backend's name, for messages and reports."""
    concurrency: ClassVar[int] = 1
    """How many threads may call ``infer`` at once: 2 where one frame is copied while another is computed."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self.spec = spec
        self.device = device
        """What really runs it, such as ``cpu`` or ``cuda:0``."""
        self.precision = spec.precision
        self._closed = False

    @abstractmethod
    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        """Label checked, contiguous frames: output name -> array, as in the deploy graph."""

    @abstractmethod
    def _release(self) -> None:
        """Free what was opened; called once."""

    @property
    def max_batch(self) -> int | None:
        """Frames that one call takes at most; None where any number may be given."""
        return self.spec.fixed_shape[0]

    def details(self) -> dict[str, Any]:
        """What a report should state about how it runs (provider, threads, versions)."""
        return {}

    def device_times(self) -> dict[str, float]:
        """Milliseconds that the device spent on the last batch, by stage; empty where they are not known."""
        return {}

    @final
    def infer(self, images: Frames) -> Segmentation:
        """Label each pixel of a batch of frames.

        Args:
            images: uint8 ``[N, H, W, 3]`` in the colour order of ``spec.color_order``. An array
                that is not contiguous is copied first.

        Raises:
            SourceError: the array has another dtype, shape or a size outside the spec's limits.
            InferenceError: the backend failed, returned another size than that of the frames, or the
                runtime is closed.
        """
        self._require_open()
        checked = check_frames(images, self.spec)
        with self._mapped_errors(f"frames of shape {checked.shape}"):
            outputs = self._infer(checked)
        labels = outputs["labels"]
        if labels.shape != checked.shape[:3] or labels.dtype != np.uint8:
            raise InferenceError(
                f"{self.backend} returned {labels.dtype} labels of shape {labels.shape} for frames of shape "
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
        """Turns an error of any other class into an InferenceError."""
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
    if height < spec.min_height or width < spec.min_width:
        raise SourceError(
            f"a frame of {height}x{width} is smaller than {spec.min_height}x{spec.min_width}, the smallest "
            "that this network takes; scale it up, or export with a size multiple, which pads it in the graph"
        )
    fixed_batch, fixed_height, fixed_width = spec.fixed_shape
    if fixed_batch not in (None, batch):
        raise SourceError(f"this model takes {fixed_batch} frames at a time, found {batch}")
    if (fixed_height or height, fixed_width or width) != (height, width):
        raise SourceError(
            f"this model takes frames of {fixed_height or 'any height'}x{fixed_width or 'any width'} only, "
            f"found {height}x{width}; resize them, or export the network with dynamic axes"
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


def cuda_index(device: str | None) -> int:
    """The N of ``cuda:N``; 0 where none is given."""
    return int((device or "").partition(":")[2] or 0)


def usable_cores() -> int:
    """CPU cores that this process may run on (``taskset`` and containers' CPU sets count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
