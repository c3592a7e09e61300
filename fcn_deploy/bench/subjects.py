"""What a worker times: one call from a camera's bytes to labels, in three stages.

For an artefact the deploy graph does nearly all of the work. Outside it are checking the frames
(preprocess) and returning the labels (postprocess). Typical user code does both in numpy.
"""

from __future__ import annotations

import time
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import BackendUnavailable
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.base import Frames, Runtime
from fcn_deploy.runtimes.location import locate
from fcn_deploy.runtimes.onnxruntime import OnnxRuntimeOptions, wanted_provider
from fcn_deploy.runtimes.registry import backend_for, unavailable
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.spec import ModelSpec

STAGES = ("preprocess", "infer", "postprocess")

Times = tuple[float, float, float]
"""Milliseconds of the three stages; their sum is the whole call."""


class BenchSubject(Protocol):
    """What is measured: it labels frames and says how long that took."""

    color_order: str
    """Of the frames that it wants: ``bgr`` or ``rgb``."""

    def call(self, images: Frames) -> tuple[Times, NDArray[np.uint8]]:
        """Label uint8 ``[N, H, W, 3]`` frames: the stages' times, and uint8 ``[N, H, W]`` labels."""
        ...

    def device_times(self) -> dict[str, float]:
        """Milliseconds of the last call by the device's own clock; empty where there is none."""
        ...

    def facts(self) -> dict[str, Any]:
        """``device``, ``precision`` and ``details`` for the report."""
        ...


def open_bench_subject(kind: str, **fields: Any) -> BenchSubject:
    """:func:`open_artefact` or, for kind ``typical``, :class:`TypicalSubject`."""
    return TypicalSubject(**fields) if kind == "typical" else open_artefact(**fields)


def open_artefact(
    path: str, backend: str, threads: int, spinning: bool, options: dict[str, Any] | None = None
) -> ArtefactSubject:
    """Open an artefact on a backend, with those of ``options`` that it has.

    Raises:
        FcnDeployError: the backend cannot run here, or refuses the file.
    """
    location = locate(path)
    chosen = backend_for(location, backend)
    if reason := unavailable(chosen):
        raise BackendUnavailable(f"the {chosen.name} backend cannot run here: {reason}")
    conditions = {"threads": threads, "spinning": spinning, **(options or {})}
    asked = chosen.options(**chosen.own_options(conditions))
    return ArtefactSubject(chosen.open(location, asked))


@final
class ArtefactSubject:
    """An artefact, called as a user calls it: through :class:`Segmenter`.

    Args:
        runtime: the artefact, opened.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._watched = Stopwatch(runtime)
        self._segmenter = Segmenter(self._watched)
        self.color_order = runtime.spec.color_order

    def call(self, images: Frames) -> tuple[Times, NDArray[np.uint8]]:
        began = time.perf_counter()
        labels = np.ascontiguousarray(self._segmenter.infer(images).labels)
        ended = time.perf_counter()
        return _times(began, self._watched.began, self._watched.ended, ended), labels

    def device_times(self) -> dict[str, float]:
        return self._watched.device_times()

    def facts(self) -> dict[str, Any]:
        return {
            "device": self._segmenter.device,
            "precision": self._segmenter.precision,
            "details": self._segmenter.details(),
        }


@final
class Stopwatch(Runtime):
    """A runtime that records when another one's inference began and ended (``time.perf_counter``)."""

    backend = "stopwatch"

    def __init__(self, inner: Runtime) -> None:
        super().__init__(inner.spec, inner.device)
        self._inner = inner
        self.began = self.ended = 0.0

    def details(self) -> dict[str, Any]:
        return self._inner.details()

    def device_times(self) -> dict[str, float]:
        return self._inner.device_times()

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        self.began = time.perf_counter()
        outputs = self._inner._infer(images)
        self.ended = time.perf_counter()
        return outputs

    def _release(self) -> None:
        self._inner.close()


@final
class TypicalSubject:
    """What many programs do around a plainly exported model: OpenCV, numpy and a bare session.

    Args:
        path: an ONNX file that takes float32 ``[N, 3, H, W]`` and returns logits.
        spec: JSON of the description: colour order, mean and scale.
        threads: of ONNX Runtime and OpenCV.
        spinning: whether ONNX Runtime's threads may spin.
        reads: what the network reads: ``order`` of channels, ``bgr`` or ``rgb``, and ``multiple`` of rows and
            columns, to which frames are padded.
    """

    def __init__(
        self, path: str, spec: str, threads: int, spinning: bool, reads: dict[str, Any] | None = None
    ) -> None:
        ort = require("onnxruntime", extra="cpu")
        self._cv2 = require("cv2", extra="opencv")
        self._cv2.setNumThreads(threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        providers = ["CPUExecutionProvider"]
        if wanted_provider(ort, OnnxRuntimeOptions()) == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        self._session = ort.InferenceSession(path, options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self._spec = ModelSpec.from_json(spec)
        self.color_order = self._spec.color_order
        reads = reads or {}
        self._order, self._multiple = reads.get("order", "bgr"), reads.get("multiple", 1)

    def call(self, images: Frames) -> tuple[Times, NDArray[np.uint8]]:
        began = time.perf_counter()
        blob = self.normalise(images)
        ready = time.perf_counter()
        logits = self._session.run(None, {self._input: blob})[0]
        inferred = time.perf_counter()
        labels = self.label(logits, images)
        return _times(began, ready, inferred, time.perf_counter()), labels

    def normalise(self, images: Frames) -> NDArray[np.float32]:
        """uint8 ``[N, H, W, 3]`` -> float32 ``[N, 3, H, W]``: prepared as the network reads it."""
        cv2, spec = self._cv2, self._spec
        mean, std = ((v if self._order == "bgr" else v[::-1]) for v in (spec.mean, spec.std))
        planes = []
        for image in images:
            if spec.color_order != self._order:
                image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # the same the other way round
            x = cv2.subtract(image.astype(np.float32), (*mean, 0.0))
            if spec.std != (1.0, 1.0, 1.0):
                x = cv2.multiply(x, (*(1 / s for s in std), 0.0))
            below, right = (-length % self._multiple for length in image.shape[:2])
            if below or right:
                x = cv2.copyMakeBorder(x, 0, below, 0, right, cv2.BORDER_CONSTANT)
            planes.append(x.transpose(2, 0, 1))
        return np.ascontiguousarray(np.stack(planes))

    def label(self, logits: NDArray[np.float32], images: Frames) -> NDArray[np.uint8]:
        """Logits ``[N, C, h, w]`` -> uint8 ``[N, H, W]`` labels; small logits are resized by OpenCV."""
        height, width = images.shape[1:3]
        rows, columns = (length + -length % self._multiple for length in (height, width))
        if logits.shape[-2:] != (rows, columns):
            planes = [self._cv2.resize(one.transpose(1, 2, 0), (columns, rows)) for one in logits]
            logits = np.stack([plane.reshape(rows, columns, -1).transpose(2, 0, 1) for plane in planes])
        if logits.shape[1] == 1:
            threshold = self._spec.threshold or 0.5
            labels = logits[:, 0] > np.log(threshold / (1 - threshold))
        else:
            labels = logits.argmax(axis=1)
        found: NDArray[np.uint8] = labels[:, :height, :width].astype(np.uint8)
        return found

    def device_times(self) -> dict[str, float]:
        return {}

    def facts(self) -> dict[str, Any]:
        cuda = self._session.get_providers()[0].startswith("CUDA")
        return {"device": "cuda:0" if cuda else "cpu", "precision": "fp32", "details": {}}


def _times(began: float, ready: float, inferred: float, ended: float) -> Times:
    return 1e3 * (ready - began), 1e3 * (inferred - ready), 1e3 * (ended - inferred)
