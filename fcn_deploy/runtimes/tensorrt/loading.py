"""Deserialising an engine and making execution contexts of it.

TensorRT's log goes to Python's logging as ``fcn_deploy.tensorrt``. Its calls rarely raise: one that fails
returns None or False and logs why, so the last error of the calling thread is kept for our message.
"""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Any

from fcn_deploy.contract import Port, check_deploy_graph
from fcn_deploy.errors import EngineError
from fcn_deploy.files import write_bytes
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.spec import ModelSpec

_logger = logging.getLogger("fcn_deploy.tensorrt")
_logger.addHandler(logging.NullHandler())  # silent until a program configures it

_last_error = threading.local()


@functools.cache
def log_for(trt: Any) -> Any:
    """The one logger of this process for TensorRT, which keeps the first one that it is given."""
    levels = {
        "VERBOSE": logging.DEBUG,
        "INFO": logging.INFO,
        "WARNING": logging.WARNING,
        "ERROR": logging.ERROR,
        "INTERNAL_ERROR": logging.CRITICAL,
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity.name, logging.ERROR)
            _logger.log(level, "%s", msg)
            if level >= logging.ERROR:
                _last_error.message = msg

    return Log()


def clear_last_error() -> None:
    """Forget an older error, before a call that might fail."""
    _last_error.message = ""


def last_error() -> str:
    """The last error that TensorRT logged in this thread since :func:`clear_last_error`."""
    lines = str(getattr(_last_error, "message", "")).strip().splitlines()
    return lines[0].rstrip(".") if lines else "it gave no reason"


def checked(returned: Any, what: str) -> Any:
    """``returned``, unless it is None or False.

    Raises:
        EngineError: says ``what`` was tried, with TensorRT's own last error.
    """
    if returned is None or returned is False:
        raise EngineError(f"TensorRT could not {what}: {last_error()}")
    return returned


def deserialize(trt: Any, path: Path, data: bytes, *, compatible: bool) -> tuple[Any, Any]:
    """TensorRT's runtime and the engine.

    Args:
        trt: the module.
        path: the file, for messages.
        data: its bytes. Their hash must have been checked, because they may hold code.
        compatible: whether it was built for later versions too; it then contains its own runtime.

    Raises:
        EngineError: it is damaged, or not for this GPU, driver or version.
    """
    clear_last_error()
    try:
        runtime = trt.Runtime(log_for(trt))
    except TypeError as exc:  # raised by the bindings where no runtime could be created
        raise EngineError(f"TensorRT could not start its runtime: {last_error()}") from exc
    if compatible:
        runtime.engine_host_code_allowed = True
    _check_validity(trt, runtime, data, path)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(
            f"TensorRT {trt.__version__} refuses {path}: {last_error()}; build it again, with this "
            "version and for this GPU"
        )
    return runtime, engine


def _check_validity(trt: Any, runtime: Any, data: bytes, path: Path) -> None:
    """Ask TensorRT-RTX whether the engine's header fits this machine; TensorRT has no such call.

    Raises:
        EngineError: it does not.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, diagnostics = runtime.get_engine_validity(data)
    if validity == trt.EngineValidity.INVALID:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} cannot run {path} here: {_problems(trt, diagnostics)}; build it "
            "again for this GPU and version"
        )
    if validity == trt.EngineValidity.SUBOPTIMAL:
        _logger.warning("%s may be slower here than it could be: %s", path, _problems(trt, diagnostics))


def _problems(trt: Any, diagnostics: Any) -> str:
    """The flags that are set, in words."""
    bits = int(diagnostics)
    flags = getattr(trt, "EngineInvalidityDiagnostics", None)
    found = [
        name.lower().replace("_", " ")
        for name, flag in getattr(flags, "__members__", {}).items()
        if bits & int(flag)
    ]
    return ", ".join(found) or last_error()


def check_deploy_engine(engine: Any, spec: ModelSpec, path: Path) -> None:
    """Check names, directions, types and ranks of an engine's tensors against the deploy graph's contract.

    Raises:
        EngineError: says what was expected and found.
    """
    ports: dict[str, dict[str, Port]] = {"INPUT": {}, "OUTPUT": {}}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype, shape = engine.get_tensor_dtype(name), engine.get_tensor_shape(name)
        ports[engine.get_tensor_mode(name).name][name] = port(dtype, shape)
    check_deploy_graph(
        ports["INPUT"],
        ports["OUTPUT"],
        spec.outputs,
        path,
        error=EngineError,
        remedy="build it again from an exported ONNX file",
    )


def port(dtype: Any, shape: Any) -> Port:
    """A tensor as TensorRT describes it, its dtype as numpy names it."""
    name = dtype.name.lower()
    return Port("float32" if name == "float" else name, tuple(shape))


def profiles_of(engine: Any) -> list[Profile]:
    """The engine's optimization profiles, in its own order."""
    found = []
    for index in range(engine.num_optimization_profiles):
        shapes = engine.get_tensor_profile_shape("image", index)
        found.append(Profile(index, *(tuple(shape)[:3] for shape in shapes)))
    return found


class ContextFactory:
    """Makes execution contexts of one engine; their scratch memory is set by the caller.

    TensorRT-RTX compiles kernels on the device and captures CUDA graphs itself; both are configured here.
    The compiled kernels are saved beside the engine as ``NAME.engine.cache``, so that the next start is
    quicker.
    """

    def __init__(self, trt: Any, engine: Any, path: Path, *, rtx: bool) -> None:
        self.captures = rtx
        """Whether TensorRT captures CUDA graphs itself."""
        self._trt = trt
        self._engine = engine
        self._cache_path = path.with_name(f"{path.name}.cache")
        self._config: Any = None
        self._cache: Any = None
        self._cached = b""
        if rtx:
            self._configure()

    def create(self) -> Any:
        """A context without scratch memory.

        Raises:
            EngineError: TensorRT could not make one.
        """
        clear_last_error()
        strategy = self._config or self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return checked(self._engine.create_execution_context(strategy), "make an execution context")

    def close(self) -> None:
        """Save the compiled kernels, where there are new ones, and drop the engine.

        Raises nothing: where they cannot be saved, they are compiled again at the next start.
        """
        try:
            data = b"" if self._cache is None else bytes(self._cache.serialize())
            if data and data != self._cached:
                write_bytes(self._cache_path, data)
        except Exception as exc:
            _logger.warning("compiled kernels were not saved: %s", exc)
        self._engine = self._config = self._cache = None

    def _read_cache(self) -> bytes:
        try:
            return self._cache_path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as exc:
            _logger.warning(
                "%s cannot be read, so kernels are compiled again: %s", self._cache_path, exc.strerror
            )
            return b""

    def _configure(self) -> None:
        trt = self._trt
        self._config = checked(self._engine.create_runtime_config(), "make a runtime configuration")
        self._config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = checked(self._config.create_runtime_cache(), "make a runtime cache")
        self._cached = self._read_cache()
        if self._cached and not self._cache.deserialize(self._cached):
            # It is of another GPU, driver or version: close() replaces it.
            self._cached = b""
        self._config.set_runtime_cache(self._cache)
