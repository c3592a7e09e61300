"""A whole backend: `.toy` files hold a spec, `toy://host/street` is one; labels are the brightest channel."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fcn_deploy import Architecture, ModelSpec
from fcn_deploy.errors import BackendUnavailable, ModelError, UsageError
from fcn_deploy.runtimes import Backend, BackendOptions, Description, Frames, Location, Runtime

STREET = ModelSpec(
    classes=("blue", "green", "red"), architecture=Architecture("fcn8s-lite"), max_height=64, max_width=64
)


@dataclass(frozen=True)
class ToyOptions(BackendOptions):
    shift: int = 0
    """Added to each label."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift not in (0, 1, 2):
            raise UsageError(f"shift must be 0, 1 or 2, not {self.shift}")


class ToyBackend(Backend[ToyOptions]):
    name = "toy"
    suffixes = (".toy",)
    schemes = ("toy",)
    packages = ("toy-backend",)
    options = ToyOptions

    def unavailable(self) -> str | None:
        return None

    def read_spec(self, location: Location) -> ModelSpec:
        if isinstance(location, Path):
            return ModelSpec.from_json(location.read_text(), str(location))
        host, _, model = location.removeprefix("toy://").rpartition("@")[2].partition("/")
        if model != "street":
            raise ModelError(f"there is no {model} on {host}")
        return STREET

    def identity(self, location: Location) -> str:
        data = location.read_bytes() if isinstance(location, Path) else location.encode()
        return hashlib.sha256(data).hexdigest()

    def open(self, location: Location, options: ToyOptions) -> Runtime:
        if options.device not in (None, "cpu"):
            raise BackendUnavailable(f"the toy runs on the CPU only, not on {options.device}")
        return Toy(self.read_spec(location), options.shift)

    def describe(self, location: Location) -> Description:
        cells = self.read_spec(location).num_classes
        return Description({"cells": cells}, [("cells", str(cells))])

    def diagnose(self) -> Description:
        return Description({"mood": "good"}, [("mood", "good")])


class Toy(Runtime):
    backend = "toy"

    def __init__(self, spec: ModelSpec, shift: int) -> None:
        super().__init__(spec, "cpu")
        self._shift = shift

    def details(self) -> dict[str, Any]:
        return {"toy": "1.0", "shift": self._shift}

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        labels = (images.argmax(-1) + self._shift) % self.spec.num_classes
        return {"labels": labels.astype("uint8")}

    def _release(self) -> None:
        pass
