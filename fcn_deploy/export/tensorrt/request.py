"""The request to the process that builds, and its result; both are sent as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fcn_deploy.export.tensorrt.builder import BuildSettings
from fcn_deploy.runtimes.cuda import Gpu
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.spec import ModelSpec


@dataclass(frozen=True)
class BuildRequest:
    """A build. Its arguments are checked, except for what needs TensorRT."""

    onnx: Path
    spec: ModelSpec
    """The description of ``onnx``."""
    output: Path
    """Where the engine is written: an existing temporary file, which the caller renames."""
    target: Path
    """The name that the engine will have, for messages."""
    flavor: str
    """``tensorrt``, ``rtx`` or ``auto``."""
    settings: BuildSettings
    profiles: tuple[Profile, ...]
    declared: str
    """The precision that the graph declares."""
    wanted: str
    """The precision that the engine must have."""
    memory: dict[str, Any]
    """``weights`` and ``activations`` in bytes, and the ``profile`` that takes them: estimates."""
    timing_cache: Path | None = None
    """As it was given."""

    @property
    def timings(self) -> Path:
        """Where timings of kernels are kept, by TensorRT alone."""
        return self.timing_cache or Path(f"{self.target}.timing")

    def to_json(self) -> str:
        """Read by :meth:`from_json`."""
        return json.dumps({**dataclasses.asdict(self), "spec": self.spec.to_json()}, default=_plain)

    @classmethod
    def from_json(cls, text: str) -> BuildRequest:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        settings, cache = data["settings"], data["timing_cache"]
        return cls(
            **{
                **data,
                **{key: Path(data[key]) for key in ("onnx", "output", "target")},
                "spec": ModelSpec.from_json(data["spec"], data["onnx"]),
                "settings": BuildSettings(
                    **{**settings, "compute_capabilities": tuple(settings["compute_capabilities"])}
                ),
                "profiles": tuple(_profile(entry) for entry in data["profiles"]),
                "timing_cache": None if cache is None else Path(cache),
            }
        )


@dataclass(frozen=True)
class Built:
    """What TensorRT reported about the engine."""

    flavor: str
    """:data:`~fcn_deploy.runtimes.tensorrt.sidecar.TENSORRT` or ``TENSORRT_RTX``."""
    version: str
    """Of the library."""
    gpu: Gpu | None
    """Of this machine."""
    free_memory: int | None
    """Bytes that were free on the GPU before the build."""
    checked: dict[str, Any]
    """``achieved``: layers by type, or why that is not known; ``validity`` on TensorRT-RTX with a GPU."""
    log: dict[str, Any]
    """Counts of TensorRT's warnings and errors, and the first warnings."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; read by :meth:`from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Built:
        """Read what :meth:`to_dict` made."""
        gpu = data["gpu"]
        return cls(**{**data, "gpu": None if gpu is None else Gpu(**gpu)})


class Reporter(Protocol):
    """Receives what a build reports while it runs."""

    def step(self, text: str) -> None:
        """A few words on what is being done now."""

    def warn(self, text: str) -> None:
        """A sentence that the user should read."""

    def timings(self, data: bytes) -> None:
        """The contents of the timing cache after the build."""


def _plain(value: object) -> str:
    """A path as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a request cannot hold {type(value).__name__}")


def _profile(entry: dict[str, Any]) -> Profile:
    fields: dict[str, Any] = {key: tuple(value) if key != "index" else value for key, value in entry.items()}
    return Profile(**fields)
