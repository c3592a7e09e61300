"""For tests: a runtime that follows a rule instead of a model, and bare sessions with stated settings.

>>> import numpy as np
>>> from fcn_deploy.testing import FakeRuntime
>>> from fcn_deploy.runtimes.segmenter import Segmenter
>>> with Segmenter(FakeRuntime(rule=3)) as segmenter:
...     segmenter.infer(np.zeros((2, 4, 3), np.uint8)).labels.tolist()
[[[3, 3, 3, 3], [3, 3, 3, 3]]]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.errors import UsageError
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.base import Frames, Runtime, RuntimeOptions
from fcn_deploy.spec import Architecture, ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

Rule = Callable[[Frames], NDArray[np.uint8]]
"""uint8 ``[N, H, W, 3]`` frames -> uint8 ``[N, H, W]`` labels; what it raises, infer raises as
InferenceError."""


@final
class FakeRuntime(Runtime):
    """Frames are checked as by any other runtime; then the rule gives the labels.

    Args:
        rule: a function of the frames, or one label for every pixel.
        spec: description of the pretended model; None takes CamVid's 11 classes.
        delay: seconds that each call takes at least.
        max_batch: frames that one call takes at most, as with an engine; None for any number.

    Raises:
        UsageError: the label is no class of ``spec``, ``delay`` is negative, or ``max_batch`` below 1.
    """

    backend = "fake"

    def __init__(
        self,
        rule: Rule | int,
        spec: ModelSpec | None = None,
        delay: float = 0.0,
        max_batch: int | None = None,
    ) -> None:
        spec = spec or ModelSpec(
            classes=CAMVID_CLASSES,
            palette=CAMVID_PALETTE,
            architecture=Architecture("fcn8s-lite"),
            note="a fake that runs no model",
        )
        super().__init__(spec, device="cpu")
        if isinstance(rule, int) and not 0 <= rule < spec.num_classes:
            raise UsageError(f"the rule's label must be from 0 to {spec.num_classes - 1}, not {rule}")
        if delay < 0:
            raise UsageError(f"delay must be 0 seconds or more, not {delay}")
        if max_batch is not None and max_batch < 1:
            raise UsageError(f"max_batch must be at least 1, not {max_batch}")
        self._rule = rule
        self._delay = delay
        self._max_batch = max_batch

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def open(cls, path: Path, options: RuntimeOptions) -> NoReturn:
        raise UsageError("a fake runtime opens no file; make one with FakeRuntime(rule)")

    @property
    def max_batch(self) -> int | None:
        return self._max_batch

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        if self._max_batch is not None and len(images) > self._max_batch:
            raise ValueError(f"{len(images)} frames at a time, and {self._max_batch} is the most")
        if self._delay:
            time.sleep(self._delay)
        if isinstance(self._rule, int):
            return {"labels": np.full(images.shape[:3], self._rule, np.uint8)}
        return {"labels": self._rule(images)}

    def _release(self) -> None:
        pass


def onnxruntime_session(model: str | Path | ModelProto, *, threads: int = 1, **settings: Any) -> Any:
    """An ONNX Runtime session on the CPU that computes the same on every machine.

    By itself ONNX Runtime takes the machine's cores, and lets waiting threads spin.

    Args:
        model: an ONNX file, or a graph in memory.
        threads: how many it computes with.
        settings: other attributes of ``onnxruntime.SessionOptions``.

    Returns:
        An ``onnxruntime.InferenceSession``.
    """
    ort = require("onnxruntime", extra="cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it would log is raised as an exception
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    for name, value in settings.items():
        setattr(options, name, value)
    source = str(model) if isinstance(model, (str, Path)) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def openvino_model(model: str | Path | ModelProto, *, threads: int = 1) -> Any:
    """A model compiled by OpenVINO for the CPU that computes the same on every machine: in float32.

    By itself OpenVINO computes in bfloat16 on CPUs that have instructions for it.

    Args:
        model: an ONNX file or an OpenVINO IR file (``.xml``), or an ONNX graph in memory.
        threads: how many it computes with.

    Returns:
        An ``openvino.CompiledModel``.
    """
    core = require("openvino", extra="openvino").Core()
    source = str(model) if isinstance(model, (str, Path)) else model.SerializeToString()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(core.read_model(source), "CPU", settings)
