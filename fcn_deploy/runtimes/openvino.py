"""OpenVINO: the deploy graph on a CPU, fp32 or INT8; on x86 often the fastest way to run INT8.

It compiles for any frame size once; a new size only costs the shape inference and buffers of its first
frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import BackendUnavailable, MissingDependency, ModelError
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.artefact import check_external_data, read_spec
from fcn_deploy.runtimes.base import Frames, Runtime, RuntimeOptions, first_line, usable_cores
from fcn_deploy.runtimes.cpu import check_int8
from fcn_deploy.spec import ModelSpec


@final
class OpenVino(Runtime):
    """One compiled model and one request; frames go through it one after another."""

    backend = "openvino"

    def __init__(self, compiled: Any, spec: ModelSpec, details: dict[str, Any]) -> None:
        super().__init__(spec, "cpu")
        self._request = compiled.create_infer_request()
        self._outputs = {name: compiled.output(name) for name in spec.outputs}
        self._details = details

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            require("openvino", extra="openvino")
        except MissingDependency as exc:
            return str(exc)
        return None

    @classmethod
    def open(cls, path: Path, options: RuntimeOptions) -> OpenVino:
        """Open an ONNX file that fcn-deploy exported.

        Raises:
            ModelError: the file is damaged, carries no description, keeps its weights elsewhere, or
                OpenVINO refuses it.
            BackendUnavailable: another device than the CPU is asked for, or an INT8 file assumes
                instructions that this CPU lacks.
        """
        if options.device not in (None, "cpu") and not options.allow_fallback:
            raise BackendUnavailable(
                f"the openvino backend runs on the CPU only, not on {options.device}; choose device cpu, or "
                "another backend"
            )
        openvino = require("openvino", extra="openvino")
        spec = read_spec(path)
        check_external_data(path)
        check_int8(spec, path)
        threads = options.threads or usable_cores()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # On CPUs with bf16 units it would compute in bf16 unasked.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", settings)
            found = {port.get_any_name(): port.get_element_type() for port in compiled.inputs}
            answered = {name for port in compiled.outputs for name in port.get_names()}
        except Exception as exc:  # OpenVINO raises RuntimeError for everything
            raise ModelError(f"OpenVINO {openvino.__version__} refuses {path}: {_in_words(exc)}") from exc
        if found != {"image": openvino.Type.u8} or not answered.issuperset(spec.outputs):
            raise ModelError(
                f"{path} is not the deploy graph that its description promises: expected a uint8 input image "
                f"and outputs {', '.join(spec.outputs)}; export it again"
            )
        version = openvino.__version__.partition("-")[0]
        return cls(compiled, spec, {"openvino": version, "threads": threads, "floats": "fp32"})

    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        self._request.infer({"image": images}, share_inputs=True)
        # Copies: the request overwrites its own arrays with the next frame's answer.
        return {name: np.array(self._request.get_tensor(port).data) for name, port in self._outputs.items()}

    def _release(self) -> None:
        del self._request, self._outputs


def _in_words(error: Exception) -> str:
    """The last line that says something: OpenVINO puts the places in its sources first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [first_line(error)])[-1]
