"""What ``import tensorrt_rtx`` finds on the simulator: what TensorRT-RTX has beyond TensorRT."""

from __future__ import annotations

import enum
from typing import Any

import tensorrt_simulated
from tensorrt_simulated import *  # noqa: F403
from tensorrt_simulated import faults, launches  # noqa: F401

__version__ = "1.7.1.116"


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    MALFORMED_ENGINE = 32


class IRuntimeCache:
    compiled = b"kernels of the simulated GPU"

    def __init__(self) -> None:
        self._data = b""

    def deserialize(self, blob: bytes) -> bool:
        if blob != self.compiled:
            return False
        self._data = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return self._data


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.strategy = tensorrt_simulated.ExecutionContextAllocationStrategy.STATIC
        self.cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True


class ICudaEngine(tensorrt_simulated.ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, how: Any = None) -> Any:
        context = super().create_execution_context(how)
        # The first context compiles what the cache does not have.
        how.cache._data = IRuntimeCache.compiled
        return context

    @staticmethod
    def _user_managed(how: Any) -> bool:
        own = how.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return own and how.strategy is tensorrt_simulated.ExecutionContextAllocationStrategy.USER_MANAGED


class Runtime(tensorrt_simulated.Runtime):
    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        if "validity" in faults:
            kind = EngineInvalidityDiagnostics[faults["validity"]]
            return EngineValidity.INVALID, int(kind)
        if "suboptimal" in faults:
            return EngineValidity.SUBOPTIMAL, int(EngineInvalidityDiagnostics.UNSUPPORTED_CC)
        return EngineValidity.VALID, 0

    def _engine(self, container: dict[str, Any]) -> ICudaEngine:
        return ICudaEngine(container, self.logger)
