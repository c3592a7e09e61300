"""OpenVINO: the deploy graph on a CPU, fp32 or INT8; on x86 often the fastest way to run INT8.

The graph is compiled once, for frames of any size. The first frame of a new size takes longer, because
buffers and kernels are prepared for it; later frames of that size use them again. Nothing is cached on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from fcn_deploy.contract import Port, check_deploy_graph
from fcn_deploy.errors import BackendUnavailable, MissingDependency, ModelError, first_line
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.backend import FallbackOptions
from fcn_deploy.runtimes.base import Frames, Runtime, usable_cores
from fcn_deploy.runtimes.cpu import check_int8
from fcn_deploy.runtimes.location import Location
from fcn_deploy.runtimes.onnx_file import check_external_data
from fcn_deploy.runtimes.onnx_format import OnnxFormat, read_onnx_spec
from fcn_deploy.spec import ModelSpec

_DTYPES = {"u8": "uint8", "f32": "float32"}


@final
class OpenVinoBackend(OnnxFormat[FallbackOptions]):
    """ONNX files on a CPU."""

    name = "openvino"
    packages = ("openvino",)
    options = FallbackOptions

    def unavailable(self) -> str | None:
        try:
            require("openvino", extra="openvino")
        except MissingDependency as exc:
            return str(exc)
        return None

    def open(self, location: Location, options: FallbackOptions) -> Runtime:
        return OpenVino.open(Path(location), options)


@final
class OpenVino(Runtime):
    """One compiled model and one request; frames go through it one after another."""

    backend = "openvino"

    def __init__(self, compiled: Any, spec: ModelSpec, details: dict[str, Any]) -> None:
        super().__init__(spec, "cpu")
        self._request = compiled.create_infer_request()
        self._details = details

    @classmethod
    def open(cls, path: Path, options: FallbackOptions) -> OpenVino:
        """Open an ONNX file that fcn-deploy exported.

        Raises:
            ModelError: the file is damaged, carries no description, keeps its weights elsewhere, is
                not a deploy graph, or OpenVINO refuses it.
            BackendUnavailable: another device than the CPU is asked for, or an INT8 file assumes
                instructions that this CPU lacks.
        """
        if options.device not in (None, "cpu") and not options.allow_fallback:
            raise BackendUnavailable(
                f"the openvino backend runs on the CPU only, not on {options.device}; choose device cpu, or "
                "another backend"
            )
        openvino = require("openvino", extra="openvino")
        spec = read_onnx_spec(path)
        check_external_data(path)
        check_int8(spec, path, fuses_signed=True)
        try:
            core = openvino.Core()
            compiled = core.compile_model(str(path), "CPU", _settings(options))
            inputs, outputs = _ports(compiled.inputs, ("image",)), _ports(compiled.outputs, spec.outputs)
        except Exception as exc:  # OpenVINO raises RuntimeError for everything
            raise ModelError(f"OpenVINO {openvino.__version__} refuses {path}: {_in_words(exc)}") from exc
        check_deploy_graph(inputs, outputs, spec.outputs, path)
        details = {
            "openvino": openvino.__version__.partition("-")[0],
            "processor": core.get_property("CPU", "FULL_DEVICE_NAME").strip(),
            # What the compiled model uses, which need not be what was set.
            "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
            "floats": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        }
        return cls(compiled, spec, details)

    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        # Frames are read in place; outputs are copies, which the next frame does not change.
        # On one thread a size that the graph cannot take raises nothing and leaves the last outputs (seen
        # in 2026.4). They have another size then, which the caller checks.
        outputs = self._request.infer({"image": images}, share_inputs=True, share_outputs=False)
        return {name: outputs[name] for name in self.spec.outputs}

    def _release(self) -> None:
        del self._request


def _settings(options: FallbackOptions) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads or usable_cores(),
        # With pinning, all processes with fewer threads than cores would run on the same cores.
        "ENABLE_CPU_PINNING": False,
        # Otherwise it computes in bf16 on CPUs that can. An fp16 file is computed in fp32 too.
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _ports(ports: list[Any], known: tuple[str, ...]) -> dict[str, Port]:
    """By name; a port has several names where passes merged tensors, and the known one is taken."""
    found = {}
    for port in ports:
        name = next((n for n in known if n in port.get_names()), port.get_any_name())
        kind, shape = port.get_element_type().get_type_name(), port.get_partial_shape()
        lengths = () if shape.rank.is_dynamic else tuple(map(_length, shape))
        found[name] = Port(_DTYPES.get(kind, kind), lengths)
    return found


def _length(dimension: Any) -> int | str:
    return str(dimension) if dimension.is_dynamic else int(dimension.get_length())


def _in_words(error: Exception) -> str:
    """The last line of the message: OpenVINO puts places in its source code first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (reasons or lines or [first_line(error)])[-1]
