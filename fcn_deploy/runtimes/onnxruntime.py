"""ONNX Runtime: the deploy graph on a CPU, on CUDA, or through TensorRT.

The provider is the one asked for or the best that this machine has, and the one that is really used
is reported: where ONNX Runtime would silently take the CPU instead of a GPU, opening fails unless the
fall-back is allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import Port, check_deploy_graph
from fcn_deploy.errors import BackendUnavailable, MissingDependency, ModelError, UsageError, first_line
from fcn_deploy.lazy import installed, require, version_of
from fcn_deploy.runtimes.backend import Description, FallbackOptions
from fcn_deploy.runtimes.base import Frames, Runtime, cuda_index, usable_cores
from fcn_deploy.runtimes.cpu import check_int8
from fcn_deploy.runtimes.cuda import gpu_problem
from fcn_deploy.runtimes.location import Location
from fcn_deploy.runtimes.onnx_file import check_external_data
from fcn_deploy.runtimes.onnx_format import OnnxFormat, read_onnx_spec
from fcn_deploy.spec import ModelSpec

_PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Best first: a fall-back goes down this list."""

_OPTIMIZATION = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
WRONG_OPTIMIZERS = ["WeightBiasQuantization"]
"""Passes that change results. This one divides fp16 biases by a scale in fp16, where the quotient becomes
infinite: 2 points of mean IU in an INT8+fp16 graph (seen in 1.31.1). Versions without it ignore the name."""
_WARNING, _FATAL = 2, 4
_WRONG_FILE = ("InvalidGraph", "InvalidProtobuf", "NotImplemented")
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass(frozen=True)
class OnnxRuntimeOptions(FallbackOptions):
    """How a session is made.

    Raises:
        UsageError: an option is out of range, or two contradict each other.
    """

    provider: str | None = None
    """``cpu``, ``cuda`` or ``tensorrt``; None follows ``device``."""
    optimization: str = "all"
    """Graph optimisation: ``none``, ``basic``, ``extended`` or ``all``."""
    spinning: bool = True
    """Whether idle threads spin: lower latency, and a core kept busy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.provider not in (None, *_PROVIDERS):
            raise UsageError(f"unknown provider {self.provider!r}; choose cpu, cuda or tensorrt")
        if None not in (self.device, self.provider) and (self.device == "cpu") != (self.provider == "cpu"):
            raise UsageError(
                f"device {self.device} and provider {self.provider} contradict each other; give one of them"
            )
        if self.optimization not in _OPTIMIZATION:
            raise UsageError(
                f"unknown optimization {self.optimization!r}; choose none, basic, extended or all"
            )


@final
class OnnxRuntimeBackend(OnnxFormat[OnnxRuntimeOptions]):
    """ONNX files on whatever ONNX Runtime has a provider for."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnxruntime-gpu")
    options = OnnxRuntimeOptions

    def unavailable(self) -> str | None:
        try:
            require("onnxruntime", extra="cpu")
        except MissingDependency as exc:
            return str(exc)
        return None

    def open(self, location: Location, options: OnnxRuntimeOptions) -> Runtime:
        return OnnxRuntime.open(Path(location), options)

    def diagnose(self) -> Description:
        """Its providers, and packages that do not fit."""
        if not installed("onnxruntime"):
            return Description()
        available = require("onnxruntime", extra="cpu").get_available_providers()
        known = [name for name, provider in _PROVIDERS.items() if provider in available]
        return Description({"providers": known}, [("built with", ", ".join(known))], _package_warnings())


@final
class OnnxRuntime(Runtime):
    """One session; frames of any size go through it, one after another."""

    backend = "onnxruntime"

    def __init__(self, session: Any, spec: ModelSpec, device: str, details: dict[str, Any]) -> None:
        super().__init__(spec, device)
        self._details = details
        self._names = [output.name for output in session.get_outputs()]
        self._run: Callable[[Frames], list[NDArray[Any]]] = (
            _on_cpu(session, self._names)
            if device == "cpu"
            else BoundSession(session, self._names, "cuda", cuda_index(device))
        )

    @classmethod
    def open(cls, path: Path, options: OnnxRuntimeOptions) -> OnnxRuntime:
        """Open an ONNX file that fcn-deploy exported.

        Raises:
            ModelError: the file is damaged, carries no description, keeps its weights elsewhere, is
                not a deploy graph, or ONNX Runtime refuses it.
            BackendUnavailable: the device or provider asked for cannot run here, or an INT8 file assumes
                instructions that this CPU lacks.
        """
        ort = require("onnxruntime", extra="cpu")
        spec = read_onnx_spec(path)
        check_external_data(path)
        session, provider = _open(ort, path, options, wanted_provider(ort, options))
        if provider == "cpu":  # asked for, or fallen back to
            check_int8(spec, path)
        check_deploy_graph(_ports(session.get_inputs()), _ports(session.get_outputs()), spec.outputs, path)
        details = {
            "onnxruntime": ort.__version__,
            "provider": provider,
            "threads": options.threads or usable_cores(),
            "optimization": options.optimization,
            "spinning": options.spinning,
        }
        return cls(
            session, spec, "cpu" if provider == "cpu" else f"cuda:{cuda_index(options.device)}", details
        )

    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._run(images), strict=True))

    def _release(self) -> None:
        del self._run


class BoundSession:
    """A session whose input stays allocated on the device while frames keep their size.

    Uses ONNX Runtime's IO binding. The tests run it with device ``cpu``; it has not run on a GPU
    yet, where only the device's name differs.
    """

    def __init__(self, session: Any, names: list[str], device: str, index: int = 0) -> None:
        self._session, self._names = session, names
        self._device, self._index = device, index
        self._shape: tuple[int, ...] = ()

    def __call__(self, images: Frames) -> list[NDArray[Any]]:
        if images.shape != self._shape:
            self._bind(images.shape)
        self._input.update_inplace(images)
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        outputs: list[NDArray[Any]] = self._binding.copy_outputs_to_cpu()
        return outputs

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Make a new binding: outputs of the former size stay bound otherwise, and the run is refused."""
        ort = require("onnxruntime", extra="cpu")
        frames = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._device, self._index)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("image", frames)
        for name in self._names:
            binding.bind_output(name, self._device, self._index)
        self._input, self._binding, self._shape = frames, binding, shape


def wanted_provider(ort: Any, options: OnnxRuntimeOptions) -> str:
    """``tensorrt``, ``cuda`` or ``cpu``: the one asked for, else the best that this machine has.

    Where none is asked for it is CUDA, if this ONNX Runtime was built with it and the driver finds a
    GPU. TensorRT builds an engine for each new frame size, so it is only taken when asked for.
    """
    wanted = options.provider or (options.device or "").partition(":")[0]
    if wanted:
        return wanted
    has_cuda = _PROVIDERS["cuda"] in ort.get_available_providers()
    return "cuda" if has_cuda and gpu_problem() is None else "cpu"


def _ports(values: list[Any]) -> dict[str, Port]:
    return {v.name: Port(_DTYPES.get(v.type, v.type), tuple(v.shape)) for v in values}


def _on_cpu(session: Any, names: list[str]) -> Callable[[Frames], list[NDArray[Any]]]:
    def run(images: Frames) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(names, {"image": images})
        return outputs

    return run


def _open(ort: Any, path: Path, options: OnnxRuntimeOptions, provider: str) -> tuple[Any, str]:
    """A session and its provider, which is a lesser one only where the fall-back is allowed."""
    try:
        if problem := _provider_problem(ort, provider, cuda_index(options.device)):
            raise BackendUnavailable(
                f"ONNX Runtime cannot use {provider} here: {problem}; choose device cpu, or allow the "
                "fall-back"
            )
        return _open_with(ort, path, options, provider), provider
    except BackendUnavailable:
        if not options.allow_fallback:
            raise
        return _open(ort, path, options, _from(provider)[1])


def _from(provider: str) -> list[str]:
    """A provider and those below it."""
    order = list(_PROVIDERS)
    return order[order.index(provider) :]


def _open_with(ort: Any, path: Path, options: OnnxRuntimeOptions, provider: str) -> Any:
    index = {"device_id": cuda_index(options.device)}
    providers = [(_PROVIDERS[name], {} if name == "cpu" else index) for name in _from(provider)]
    settings = _session_options(ort, options)
    try:
        with _quiet(ort, provider):
            # Its own fall-back prints to stdout and goes on with another provider.
            session = ort.InferenceSession(
                str(path),
                settings,
                providers=providers,
                enable_fallback=0,
                disabled_optimizers=WRONG_OPTIMIZERS,
            )
    except Exception as exc:  # its errors share no base class
        reason = _in_words(exc)
        if provider != "cpu" and type(exc).__name__ not in _WRONG_FILE:
            raise BackendUnavailable(
                f"ONNX Runtime could not open {path} on {provider}: {reason}; choose device cpu, or allow "
                "the fall-back"
            ) from exc
        raise ModelError(f"ONNX Runtime {ort.__version__} refuses {path}: {reason}") from exc
    got = session.get_providers()[0]
    if got != _PROVIDERS[provider]:
        raise BackendUnavailable(
            f"ONNX Runtime was asked for {provider} and silently took {got}; check that its CUDA, cuDNN and "
            "TensorRT libraries fit, choose device cpu, or allow the fall-back"
        )
    return session


@contextlib.contextmanager
def _quiet(ort: Any, provider: str) -> Iterator[None]:
    """Keep what GPU providers log while they start off stderr; it is in the exception as well.

    The logger belongs to the whole process and its level cannot be read, so the default is set again.
    """
    if provider != "cpu":
        ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        if provider != "cpu":
            ort.set_default_logger_severity(_WARNING)


def _session_options(ort: Any, options: OnnxRuntimeOptions) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL  # what it would log comes as an exception
    # Without it ONNX Runtime takes all cores of the machine and pins threads to them, even where the
    # process may use fewer.
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, _OPTIMIZATION[options.optimization]
    )
    # A pattern is kept for each frame size: more memory, and no time gained. The arena stays on: it grows
    # up to the largest frame, and shrinking it after each run costs more memory and time.
    settings.enable_mem_pattern = False
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    return settings


def _provider_problem(ort: Any, provider: str, index: int) -> str | None:
    """Why a provider cannot run here, in words; None where no reason is known."""
    if provider == "cpu":
        return None
    if _PROVIDERS[provider] not in ort.get_available_providers():
        return (
            f"onnxruntime {ort.__version__} is installed without it; put the GPU build in its place: "
            "pip uninstall onnxruntime && pip install 'fcn-deploy[gpu]'"
        )
    return gpu_problem(index) or _library_problem(ort, provider)


def _library_problem(ort: Any, provider: str) -> str | None:
    """The library that a provider needs and that is missing, such as ``libcudnn.so.9``.

    Found by loading it here, because ONNX Runtime only logs it and goes on without the provider.
    """
    folder = Path(ort.__file__).parent / "capi"
    problem = _load(folder, provider)
    if problem and hasattr(ort, "preload_dlls"):
        # CUDA's libraries may be installed as Python packages, where the loader does not look.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        problem = _load(folder, provider)
    return problem


def _load(folder: Path, provider: str) -> str | None:
    library = folder / f"libonnxruntime_providers_{provider}.so"
    if not library.exists():  # built in, or another system
        return None
    try:
        # The provider's library uses its symbols without naming it as a dependency.
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as exc:
        return str(exc)
    return None


def _package_warnings() -> tuple[str, ...]:
    cpu, gpu = version_of("onnxruntime"), version_of("onnxruntime-gpu")
    if cpu and gpu:
        return (
            "onnxruntime and onnxruntime-gpu overwrite each other's files; run: pip uninstall onnxruntime "
            "onnxruntime-gpu, and install one of them",
        )
    if cpu and gpu_problem() is None:
        return (
            "this onnxruntime is the CPU package; run: pip uninstall onnxruntime, and then pip install "
            "'fcn-deploy[gpu]'",
        )
    return ()


def _in_words(error: Exception) -> str:
    """Its text without ONNX Runtime's codes and without places in its source code, which follow `` ; ``."""
    text = re.split(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", first_line(error))[-1]
    return text.partition(" ; ")[0]
