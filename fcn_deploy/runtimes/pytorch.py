"""PyTorch: ``.safetensors`` artefacts of networks that this package builds, and ``.pt2`` programs of any.

Weights stored as fp16 run in half precision on a GPU. On a CPU, where half-precision convolutions are
slow and round after every layer, they are converted to float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import safetensors
from numpy.typing import NDArray

from fcn_deploy.errors import BackendUnavailable, MissingDependency, ModelError, first_line
from fcn_deploy.files import sha256_of
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.backend import Backend, Description, FallbackOptions, spec_of
from fcn_deploy.runtimes.base import Frames, Runtime, cuda_index
from fcn_deploy.runtimes.known_hash import check_expected
from fcn_deploy.runtimes.location import Location
from fcn_deploy.runtimes.parameters import count_in_words, count_parameters
from fcn_deploy.runtimes.pt2 import (
    SUFFIX,
    check_trust,
    content_of_program,
    parameters_of_program,
    read_pt2_spec,
)
from fcn_deploy.safetensors_content import content_of_file
from fcn_deploy.spec import METADATA_KEY, ModelSpec

_CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of files that hold weights and no description."""


@dataclass(frozen=True)
class PyTorchOptions(FallbackOptions):
    """Options of the PyTorch backend."""

    expect_sha256: str | None = None
    """Hash that the file must have, 64 hexadecimal digits known from elsewhere; None takes a program's from
    its manifest."""
    trust: bool = False
    """Open a ``.pt2`` program without a manifest; it can run any code."""


@final
class PyTorchBackend(Backend[PyTorchOptions]):
    """Safetensors files and programs, as ``fcn-deploy export`` writes them."""

    name = "pytorch"
    suffixes = (".safetensors", SUFFIX)
    packages = ("torch", "torchvision", "safetensors")
    written_by = "fcn-deploy export"
    options = PyTorchOptions

    def unavailable(self) -> str | None:
        try:
            require("torch", extra="export")
        except MissingDependency as exc:
            return str(exc)
        return None

    def read_spec(self, location: Location) -> ModelSpec:
        path = Path(location)
        if _is_program(path):
            return read_pt2_spec(path)
        try:
            with safetensors.safe_open(path, framework="numpy") as opened:
                metadata: dict[str, str] = opened.metadata() or {}
        except (safetensors.SafetensorError, OSError) as exc:
            raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
        return spec_of(metadata.get(METADATA_KEY), path)

    def identity(self, location: Location) -> str:
        """SHA-256 of the file."""
        return sha256_of(location)

    def content(self, location: Location) -> str:
        """SHA-256 over the table of tensors and their bytes; of a program, over what is in its archive."""
        path = Path(location)
        return content_of_program(path) if _is_program(path) else content_of_file(path)

    def describe(self, location: Location) -> Description:
        """How many numbers the weights are, from the header or the archive's own list alone."""
        path = Path(location)
        if _is_program(path):
            parameters = parameters_of_program(path)
            return Description({"parameters": parameters}, [("weights", count_in_words(parameters))])
        with safetensors.safe_open(path, framework="numpy") as opened:
            slices = [opened.get_slice(key) for key in opened.keys()]  # noqa: SIM118
            parameters = count_parameters((piece.get_dtype(), piece.get_shape()) for piece in slices)
        facts = {"tensors": len(slices), "parameters": parameters}
        return Description(facts, [("weights", count_in_words(parameters))])

    def hint(self, path: Path) -> str | None:
        if path.suffix.lower() not in _CHECKPOINTS:
            return None
        return (
            f"{path} is a checkpoint, which does not say how frames are prepared; export it first: "
            f"fcn-deploy export --weights {path} -o {path.stem}.onnx"
        )

    def open(self, location: Location, options: PyTorchOptions) -> Runtime:
        path = Path(location)
        if _is_program(path):
            return open_program(path, options)
        if options.expect_sha256 is not None:
            check_expected(path, sha256_of(path), options.expect_sha256, ModelError)
        return PyTorch.open(path, options)


@final
class PyTorch(Runtime):
    """One DeployModel or exported program in inference mode, its weights channels-last.

    Frames are NHWC, which is channels-last already: up to 2.6 times as fast as channels-first on a
    CPU, and what half-precision kernels expect on a GPU.
    """

    backend = "pytorch"

    def __init__(self, module: Any, outputs: Sequence[str], spec: ModelSpec, device: str) -> None:
        super().__init__(spec, device)
        self._outputs = tuple(outputs)
        self._torch = require("torch", extra="export")
        self._module = module
        half = any(weight.dtype == self._torch.float16 for weight in module.parameters())
        self._computes_in = "fp16" if half else "fp32"

    @classmethod
    def open(cls, path: Path, options: FallbackOptions) -> PyTorch:
        """Open a safetensors artefact.

        ``options.threads`` is a setting of the whole process in PyTorch: it changes every other use of
        torch too. None leaves it as it is.

        Raises:
            ModelError: the file is damaged or carries no description.
            BackendUnavailable: a CUDA device was asked for that PyTorch cannot use.
        """
        torch = require("torch", extra="export")
        from fcn_deploy.model.checkpoints.native import load_safetensors
        from fcn_deploy.model.deploy import DeployModel

        device = usable_device(torch, options)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        model, spec = load_safetensors(path)
        module = DeployModel(model, spec).eval()
        if device != "cpu" and spec.precision == "fp16":
            run_in_half(module)
        module = module.to(device).to(memory_format=torch.channels_last)
        return cls(module, module.outputs, spec, device)

    def details(self) -> dict[str, Any]:
        return {
            "torch": str(self._torch.__version__),
            "threads": self._torch.get_num_threads(),
            "computes_in": self._computes_in,
        }

    def _infer(self, images: Frames) -> dict[str, NDArray[Any]]:
        torch = self._torch
        # torch warns about an array that may only be read, such as a decoder's buffer.
        frames = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            outputs = self._module(frames.to(self.device))
            return {
                name: (output.float() if output.is_floating_point() else output).cpu().numpy()
                for name, output in zip(self._outputs, outputs, strict=True)
            }

    def _release(self) -> None:
        del self._module


def open_program(path: Path, options: PyTorchOptions) -> PyTorch:
    """Open a ``.pt2`` artefact, whose trust is checked first.

    Raises:
        ModelError: it may not be opened, is damaged, or was written by another version of PyTorch.
        BackendUnavailable: a CUDA device was asked for that PyTorch cannot use.
    """
    check_trust(path, options.expect_sha256, options.trust)
    torch = require("torch", extra="export")
    device = usable_device(torch, options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    spec = read_pt2_spec(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
        if device != "cpu":
            program = torch.export.passes.move_to_device_pass(program, device)
    except Exception as exc:  # torch raises many classes for files of another version
        raise ModelError(
            f"{path} is no program that torch {torch.__version__} can open ({type(exc).__name__}: "
            f"{first_line(exc)}); export it again with this version"
        ) from exc
    module = program.module(check_guards=False).to(memory_format=torch.channels_last)
    return PyTorch(module, spec.outputs, spec, device)


def _is_program(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


def run_in_half(module: Any) -> None:
    """Convert a DeployModel's network to half precision, in place; the mean stays in float32."""
    module.model.half()


def usable_device(torch: Any, options: FallbackOptions) -> str:
    """``cpu`` or ``cuda:N``: the device asked for, or the best that is available.

    Raises:
        BackendUnavailable: PyTorch cannot use it and the fall-back is not allowed; says why.
    """
    problem = _cuda_problem(torch, cuda_index(options.device))
    if options.device == "cpu" or (problem and options.device is None):
        return "cpu"
    if problem is None:
        return f"cuda:{cuda_index(options.device)}"
    if options.allow_fallback:
        return "cpu"
    raise BackendUnavailable(
        f"PyTorch cannot use {options.device} here: {problem}; choose device cpu, or allow the fall-back"
    )


def _cuda_problem(torch: Any, index: int) -> str | None:
    """Why PyTorch cannot use a GPU, in words; None where it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        return str(told[0].message).splitlines()[0] if told else "it finds no NVIDIA driver or no GPU"
    if index >= torch.cuda.device_count():
        return f"there is no cuda:{index}; the last GPU is cuda:{torch.cuda.device_count() - 1}"
    return None
