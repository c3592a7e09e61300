"""Segmenter: an opened artefact as users call it - single frames, batches, streams, threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import InferenceError, UsageError
from fcn_deploy.runtimes.base import Runtime, Segmentation
from fcn_deploy.runtimes.cuda import DeviceSegmentation
from fcn_deploy.runtimes.device import DeviceRuntime
from fcn_deploy.spec import ModelSpec

IN_FLIGHT = 2
"""How many results of ``submit`` may be outstanding: one being computed, one waiting."""


@final
class Segmenter:
    """Labels frames with one artefact on one device.

    Every method may be called from any thread; frames are labelled one at a time, or two where the
    backend copies one while it computes another. ``submit`` and ``result`` share one queue in the whole
    segmenter, so only one thread at a time should use that pair.

    Frames that are given to ``submit`` or ``stream`` are not copied: leave them unchanged until their
    result is there, and do not capture the next frame into the same array.

    Args:
        runtime: the opened artefact; closed with the segmenter.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._running = threading.BoundedSemaphore(runtime.concurrency)
        self._closing = threading.Lock()
        self._state = threading.Lock()
        self._submitted: deque[Future[Segmentation]] = deque()
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """The model's description: what it expects and returns."""
        return self._runtime.spec

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._runtime.backend

    @property
    def device(self) -> str:
        """The device that is really used: ``cpu`` or ``cuda:N``."""
        return self._runtime.device

    @property
    def precision(self) -> str:
        """The precision that the artefact declares."""
        return self._runtime.precision

    @property
    def max_batch(self) -> int | None:
        """Frames that one call takes at most; None where any number may be given."""
        return self._runtime.max_batch

    def details(self) -> dict[str, Any]:
        """How it runs, for reports: provider, threads, versions."""
        return self._runtime.details()

    def infer(self, images: NDArray[np.uint8]) -> Segmentation:
        """Label each pixel of a frame or a batch of frames.

        Args:
            images: uint8 ``[H, W, 3]`` or ``[N, H, W, 3]``, 0 to 255, in the colour order of
                ``spec.color_order``.

        Returns:
            Labels uint8 ``[N, H, W]``; N is 1 for a single frame.

        Raises:
            SourceError: another dtype or shape, or a size outside the spec's limits.
            InferenceError: the backend failed, or the segmenter is closed.
        """
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] == 3:
            images = images[None]
        with self._running:
            return self._runtime.infer(images)

    __call__ = infer

    def infer_device(self, images: Any) -> DeviceSegmentation:
        """Label frames that are on the GPU already; the result stays there. Nothing is copied.

        On return the labels are complete and the frames may be overwritten; there is no stream to wait
        for. Work on the frames that was queued before the call is waited for if their library names
        its stream, as PyTorch and CuPy do through DLPack and Numba through the array interface.

        Args:
            images: uint8 ``[H, W, 3]`` or ``[N, H, W, 3]``, contiguous, with
                ``__cuda_array_interface__`` or ``__dlpack__``, on the GPU of this segmenter.

        Returns:
            Arrays that other libraries read without a copy. Their memory is used again once the last of
            them is deleted, and freed then if the segmenter was closed.

        Raises:
            UsageError: the backend takes frames from host memory only.
            SourceError: another dtype, shape, layout or device, or a size outside the limits.
            InferenceError: the backend failed, or the segmenter is closed.
        """
        if not isinstance(self._runtime, DeviceRuntime):
            raise UsageError(
                f"the {self.backend} backend takes frames from host memory only; call infer(), or load "
                "an engine"
            )
        with self._running:
            return self._runtime.infer_device(images)

    def submit(self, images: NDArray[np.uint8]) -> None:
        """Start labelling a frame or a batch in the background; :meth:`result` returns the result.

        At most :data:`IN_FLIGHT` results may be outstanding. A third one is refused, because waiting here
        would never end: only the caller can collect a result.

        Raises:
            UsageError: too many are outstanding; call :meth:`result` first.
            InferenceError: the segmenter is closed.
        """
        with self._state:
            if len(self._submitted) >= IN_FLIGHT:
                raise UsageError(f"{IN_FLIGHT} frames are in flight already; call result() before submit()")
            self._submitted.append(self._start(images))

    def result(self) -> Segmentation:
        """The result of the oldest :meth:`submit` that was not collected yet; waits for it.

        Raises:
            UsageError: nothing is in flight.
            SourceError, InferenceError: as :meth:`infer` for that frame.
        """
        with self._state:
            self._require_open()
            if not self._submitted:
                raise UsageError("no frame is in flight; call submit() before result()")
            oldest = self._submitted.popleft()
        return answer_of(oldest)

    def stream(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.uint8], Segmentation]]:
        """Label frames one after another, each while the next is read and the last is used.

        A pair is yielded once the frame after it was read, which is good for throughput from files. When
        the consumer stops early, nothing is left running, and an iterator that was made here from
        ``frames`` is closed (one that was passed in is not).

        Args:
            frames: any iterable of uint8 ``[H, W, 3]`` frames, or of batches.

        Yields:
            Each frame with its result, in order.

        Raises:
            SourceError, InferenceError: as :meth:`infer`, at the frame that caused it.
        """
        source = iter(frames)
        waiting: deque[tuple[NDArray[np.uint8], Future[Segmentation]]] = deque()
        try:
            for frame in source:
                with self._state:
                    waiting.append((frame, self._start(frame)))
                if len(waiting) > 1:
                    yield _pair(waiting.popleft())
            while waiting:
                yield _pair(waiting.popleft())
        finally:
            # What cannot be cancelled is running; a cancelled future may never be marked as done.
            wait([future for _, future in waiting if not future.cancel()])
            if source is not frames and hasattr(source, "close"):
                source.close()

    def warm_up(self, height: int, width: int, batch: int = 1, runs: int = 3) -> None:
        """Label black frames, so that the first real one does not wait for what is set up on first use.

        Args:
            height: rows of the frames to come, at least 1.
            width: columns, at least 1.
            batch: frames at a time, at least 1.
            runs: how often, at least 1.

        Raises:
            UsageError: a number is below 1, or the frame is larger than the model's limit.
            InferenceError: the backend failed, or the segmenter is closed.
        """
        if min(height, width, batch, runs) < 1:
            raise UsageError(
                f"height, width, batch and runs must be at least 1, not {height}, {width}, {batch} and {runs}"
            )
        black = np.zeros((batch, height, width, 3), np.uint8)
        for _ in range(runs):
            self.infer(black)

    def close(self) -> None:
        """Free the model. Waits for a frame that is being labelled and drops the others; closing twice is
        harmless."""
        with self._state:
            self._closed = True
            worker = self._worker
        if worker is not None:
            worker.shutdown(wait=True, cancel_futures=True)
        with self._closing, ExitStack() as idle:
            for _ in range(self._runtime.concurrency):
                idle.enter_context(self._running)
            self._runtime.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, images: NDArray[np.uint8]) -> Future[Segmentation]:
        """Start labelling in the background, for programs that keep a queue of their own.

        Returns:
            A future of the result; it raises what :meth:`infer` raises.

        Raises:
            InferenceError: the segmenter is closed.
        """
        with self._state:
            return self._start(images)

    def _start(self, images: NDArray[np.uint8]) -> Future[Segmentation]:
        """Give frames to the worker threads. The caller holds ``_state``."""
        self._require_open()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(
                max_workers=self._runtime.concurrency, thread_name_prefix="fcn-deploy"
            )
        return self._worker.submit(self.infer, images)

    def _require_open(self) -> None:
        if self._closed:
            raise InferenceError("this segmenter is closed; load the artefact again")


def answer_of(future: Future[Segmentation]) -> Segmentation:
    """The result of a future from :meth:`Segmenter.start`; waits for it.

    Raises:
        SourceError, InferenceError: as :meth:`Segmenter.infer`.
    """
    try:
        return future.result()
    except CancelledError as exc:
        raise InferenceError("the segmenter was closed before this frame was labelled") from exc


def _pair(
    waiting: tuple[NDArray[np.uint8], Future[Segmentation]],
) -> tuple[NDArray[np.uint8], Segmentation]:
    frame, future = waiting
    return frame, answer_of(future)
