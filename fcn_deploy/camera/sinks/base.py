"""The base class of sinks.

A sink is anything that can be called with a :class:`~fcn_deploy.camera.frames.Delivery`; those derived from
:class:`Sink` are also closed by the pipeline, once, however it ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, final

from fcn_deploy.camera.frames import Delivery


class StopPipeline(Exception):
    """Raised by a sink that wants no more deliveries: the pipeline ends without an error."""


class Sink(ABC):
    """Something that takes deliveries until it is closed."""

    in_caller_thread: ClassVar[bool] = False
    """Whether it must be called in the thread that runs the pipeline, as windows must."""

    @abstractmethod
    def __call__(self, delivery: Delivery) -> None:
        """Take a frame with its result.

        Raises:
            StopPipeline: it wants no more deliveries.
            PipelineError: it failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the output; closing again does nothing."""

    @final
    def __enter__(self) -> Sink:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
