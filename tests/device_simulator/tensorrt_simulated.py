"""A stand-in for TensorRT on the device simulator: the same calls, answered by ONNX Runtime.

Real engines are opaque, so a simulated one is a JSON file that names an ONNX file, with optimization
profiles and a size of scratch memory. Running it queues a host function on the simulator's stream,
which reads the frames from simulated device memory, lets ONNX Runtime answer, and writes the answers
back. It is as strict as the real one where a mistake of ours would show: a shape outside the
profile, a tensor without an address, no scratch memory, no current context, two runs that share
scratch memory at once, or a capture of shapes that were never run are refused or found out.

``tensorrt.py`` and ``tensorrt_rtx.py`` in ``modules/`` give it the names that our code imports.
Only what our code calls is here; tests/export/tensorrt/conformance holds those names against the real API.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import os
from typing import Any

import numpy as np
from control import Simulator

__version__ = "10.3.0"

faults: dict[str, str] = {}
"""Call -> what is logged when it fails: ``deserialize``, ``context``, ``execute``, ``capture``."""

launches: list[tuple[str, tuple[int, ...]]] = []
"""Every call of execute_async_v3: ``run`` or ``captured``, with the shape of the frames."""

_simulator = Simulator()
_driver = ctypes.CDLL("libcuda.so.1")
_driver.cuStreamIsCapturing.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]


class DataType(enum.Enum):
    FLOAT = np.dtype(np.float32)
    UINT8 = np.dtype(np.uint8)


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if "deserialize" in faults:
            return self._refuse(faults["deserialize"])
        try:
            container = json.loads(serialized_engine)
        except ValueError:
            return self._refuse("Serialization assertion magicTagRead == kMAGIC_TAG failed.")
        if container.get("compatible") and not self.engine_host_code_allowed:
            return self._refuse("Version-compatible engines contain host code, which is not allowed.")
        return self._engine(container)

    def _engine(self, container: dict[str, Any]) -> ICudaEngine:
        return ICudaEngine(container, self.logger)

    def _refuse(self, message: str) -> None:
        self.logger.log(Severity.ERROR, message)


class ICudaEngine:
    def __init__(self, container: dict[str, Any], logger: ILogger) -> None:
        from fcn_deploy.testing import onnxruntime_session

        self._session = onnxruntime_session(container["onnx"])
        self._profiles = [[tuple(size) for size in profile] for profile in container["profiles"]]
        self._logger = logger
        self._values = {
            **{value.name: (TensorIOMode.INPUT, value) for value in self._session.get_inputs()},
            **{value.name: (TensorIOMode.OUTPUT, value) for value in self._session.get_outputs()},
        }
        self.device_memory_size_v2 = container["scratch"]
        self.num_io_tensors = len(self._values)
        self.num_optimization_profiles = len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._values[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}[self._values[name][1].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else -1 for axis in self._values[name][1].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "image"
        return [(*size, 3) for size in self._profiles[profile_index]]

    def create_execution_context(self, how: Any = None) -> IExecutionContext | None:
        if "context" in faults:
            self._logger.log(Severity.ERROR, faults["context"])
            return None
        assert self._user_managed(how), "our code gives contexts their scratch memory"
        return IExecutionContext(self)

    @staticmethod
    def _user_managed(how: Any) -> bool:
        return how is ExecutionContextAllocationStrategy.USER_MANAGED


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile = 0
        self._shape: tuple[int, ...] | None = None
        self._shape_was_run = False
        self._captured = False
        self._addresses: dict[str, int] = {}
        self._scratch: tuple[int, int] | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        if size < self._engine.device_memory_size_v2 or memory % 256:
            self._refuse(f"Device memory of {size} bytes at {memory:#x} is too small or not aligned.")
            return
        self._scratch = (memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._refuse(f"Optimization profile {profile_index} does not exist.")
        self._profile, self._shape = profile_index, None
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._captured:  # TensorRT would not say so: what its graph then does is undefined
            return self._refuse("A graph was captured from this context, which must not be changed now.")
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, self._profile)
        shape = tuple(shape)
        if len(shape) != 4 or not all(
            low <= n <= high for low, n, high in zip(smallest, shape, largest, strict=True)
        ):
            return self._refuse(f"Static dimension mismatch or out of profile {self._profile}: {shape}.")
        self._shape_was_run = self._shape_was_run and shape == self._shape
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None
        batch, height, width, _ = self._shape
        declared = self._engine.get_tensor_shape(name)
        return (batch, height, width) if len(declared) == 3 else (batch, declared[1], height, width)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._values:
            return self._refuse(f"Given invalid tensor name: {name}.")
        if memory % 256:
            return self._refuse(f"The address {memory:#x} of {name} is not aligned.")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if "execute" in faults:
            return self._refuse(faults["execute"])
        current = ctypes.c_void_p()
        if _driver.cuCtxGetCurrent(ctypes.byref(current)) or not current.value:
            return self._refuse("No CUDA context is current in this thread.")
        missing = set(self._engine._values) - set(self._addresses)
        if missing or self._shape is None or self._scratch is None:
            return self._refuse(f"Not everything is set: {sorted(missing)} {self._shape} {self._scratch}.")
        capturing = ctypes.c_int()
        _driver.cuStreamIsCapturing(stream_handle, ctypes.byref(capturing))
        if capturing.value and "capture" in faults:
            return self._refuse(faults["capture"])
        if capturing.value and not self._shape_was_run:
            return self._refuse("Shapes that were never run cannot be captured.")
        launches.append(("captured" if capturing.value else "run", self._shape))
        self._shape_was_run = True
        self._captured = self._captured or bool(capturing.value)
        job = _Job(self._engine._session, self._shape, dict(self._addresses), self._scratch)
        if error := _simulator.enqueue(stream_handle, job.run):
            return self._refuse(f"Cuda failure {error} while launching.")
        return True

    def _refuse(self, message: str) -> bool:
        self._engine._logger.log(Severity.ERROR, message)
        return False


class _Job:
    """What a stream does for one run; a captured one may do it again and again."""

    def __init__(
        self, session: Any, shape: tuple[int, ...], addresses: dict[str, int], scratch: tuple[int, int]
    ) -> None:
        self._session, self._shape, self._addresses, self._scratch = session, shape, addresses, scratch

    def run(self) -> None:
        try:
            mark = np.frombuffer(os.urandom(min(self._scratch[1], 64)), np.uint8)
            scratch = _mapped(self._scratch[0], mark.nbytes)
            scratch[:] = mark
            frames = _mapped(self._addresses["image"], math.prod(self._shape)).reshape(self._shape)
            names = [name for name in self._addresses if name != "image"]
            answers = self._session.run(names, {"image": frames})
            for name, answer in zip(names, answers, strict=True):
                found = np.ascontiguousarray(answer).reshape(-1).view(np.uint8)
                _mapped(self._addresses[name], found.nbytes)[:] = found
            if not np.array_equal(scratch, mark):
                raise MemoryError("two runs used the same scratch memory at once")
        except Exception as exc:  # nothing can be raised through a stream; the device is lost instead
            _simulator.fail(f"{type(exc).__name__}: {exc}")


def _mapped(address: int, length: int) -> np.ndarray:
    """Simulated device memory as a kernel sees it, uint8 ``[length]``."""
    found = _simulator.bytes_at(address, length)
    if found is None:
        raise MemoryError(f"{length} bytes at {address:#x} are not there")
    return np.ctypeslib.as_array(found)
