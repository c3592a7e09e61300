"""The process that builds: ``python -m fcn_deploy.export.tensorrt.worker REQUEST LEVEL``.

TensorRT's parser and builder are loaded in this process only: where they crash, or are ended in the middle
of a build, the program that asked for the engine continues. :mod:`fcn_deploy.export.tensorrt.process` starts
this module with a file that holds a :class:`~fcn_deploy.export.tensorrt.request.BuildRequest`, and with the
lowest level of TensorRT's log that is wanted, as a number of Python's logging. Messages go back through
:mod:`fcn_deploy.export.tensorrt.pipe`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fcn_deploy.child import follow_parent, take_stdout
from fcn_deploy.contract import check_deploy_graph
from fcn_deploy.errors import BackendUnavailable, EngineError, UsageError
from fcn_deploy.export.tensorrt.builder import (
    Build,
    BuildSettings,
    LogCapture,
    achieved_precision,
    capture_log,
    compute_capabilities_of,
    make_monitor,
    validity,
)
from fcn_deploy.export.tensorrt.pipe import LOGGER, Sender
from fcn_deploy.export.tensorrt.profiles import is_static
from fcn_deploy.export.tensorrt.request import BuildRequest, Built, Reporter
from fcn_deploy.files import require_space
from fcn_deploy.lazy import import_tensorrt, installed
from fcn_deploy.runtimes.cuda import Gpu, describe_gpu, free_memory, gpu_problem
from fcn_deploy.runtimes.tensorrt.sidecar import NOT_CHECKED, TENSORRT, TENSORRT_RTX, product_name


@dataclass(frozen=True)
class _ChosenFlavor:
    """The TensorRT that builds, and the GPU that it has."""

    trt: Any
    name: str
    """:data:`TENSORRT` or :data:`TENSORRT_RTX`."""
    gpu: Gpu | None

    @property
    def title(self) -> str:
        return f"{product_name(self.name)} {self.trt.__version__}"


def build(request: BuildRequest, reporter: Reporter) -> Built:
    """Build, check and write an engine, in this process.

    Raises:
        UsageError: the flavor does not have what was asked for, or the engine cannot be written.
        ModelError: the graph's inputs or outputs are not those that its description states.
        MissingDependency: the TensorRT asked for is not installed.
        BackendUnavailable: TensorRT is asked for where no GPU is.
        EngineError: TensorRT refuses the graph, runs out of memory, or the precision was not achieved.
    """
    flavor = _choose(request.flavor, request.settings)
    _check_flavor(flavor, request)
    free = free_memory() if flavor.gpu else None
    _compare_memory(request.memory, free, reporter)
    with capture_log() as log:
        try:
            engine = _build(flavor, request, log, reporter)
        except EngineError as exc:
            if log.ran_out_of_memory():
                raise EngineError(_out_of_memory(exc, request.memory, free)) from exc
            raise
        checked = _check(flavor, engine, request.wanted, reporter)
        reporter.step("writing")
        _write(engine, request.output)
    return Built(flavor.name, flavor.trt.__version__, flavor.gpu, free, checked, log.summary())


def _choose(flavor: str, settings: BuildSettings) -> _ChosenFlavor:
    """The TensorRT to build with. TensorRT needs a GPU, TensorRT-RTX does not."""
    gpu = describe_gpu()
    problem = gpu_problem() if gpu is None else None
    if flavor == "auto" and installed("tensorrt_rtx") and (problem or settings.compute_capabilities):
        flavor = "rtx"
    trt = import_tensorrt(flavor)
    name = TENSORRT_RTX if trt.__name__ == "tensorrt_rtx" else TENSORRT
    if name == TENSORRT and problem:
        raise BackendUnavailable(
            f"TensorRT builds on the GPU that it builds for, and {problem}; build on the device itself, or "
            "for GeForce and RTX GPUs with --flavor rtx, which needs none"
        )
    return _ChosenFlavor(trt, name, gpu)


def _check_flavor(flavor: _ChosenFlavor, request: BuildRequest) -> None:
    """Refuse what only the other flavor has."""
    settings = request.settings
    if flavor.name == TENSORRT:
        if settings.compute_capabilities:
            raise UsageError(
                "TensorRT builds for the GPU that it runs on; compute capabilities are for --flavor rtx (see "
                "--hardware-compatible for one engine on several GPUs)"
            )
        if settings.dla_core is not None:
            _check_dla(request)
        return
    only_tensorrt = {
        "--hardware-compatible": settings.hardware_compatible,
        "--version-compatible": settings.version_compatible,
        "--dla-core": settings.dla_core is not None,
        "--timing-cache": request.timing_cache is not None,
    }
    for option, given in only_tensorrt.items():
        if given:
            raise UsageError(f"{option} is for TensorRT; TensorRT-RTX does not have it, leave it out")
    known = compute_capabilities_of(flavor.trt)
    for capability in settings.compute_capabilities:
        if capability not in known:
            raise UsageError(
                f"{flavor.title} does not build for compute capability {capability}, only for "
                f"{', '.join(known)}; a Jetson or a data-centre GPU needs TensorRT, run on the device itself"
            )


def _check_dla(request: BuildRequest) -> None:
    if request.declared == "fp32":
        raise UsageError("a DLA computes in fp16 and INT8 only; add --fp16 or --int8")
    if not is_static(request.profiles):
        raise UsageError("a DLA takes frames of one size; give one --profile such as 1x360x480")


def _compare_memory(memory: dict[str, Any], free: int | None, reporter: Reporter) -> None:
    """Warn where the engine will take more than the GPU has free."""
    total = memory["weights"] + memory["activations"]
    if free is not None and total > free:
        reporter.warn(
            f"the engine will take at least {total / 1e6:,.0f} MB for the profile {memory['profile']} and "
            f"the GPU has {free / 1e6:,.0f} MB free; a smaller maximum needs less"
        )


def _build(flavor: _ChosenFlavor, request: BuildRequest, log: LogCapture, reporter: Reporter) -> Any:
    """The serialized engine, in TensorRT's own memory."""
    keeps_timings = flavor.name == TENSORRT
    reporter.step("parsing")
    network = Build(flavor.trt, flavor.title, log)
    network.parse(request.onnx)
    check_deploy_graph(*network.signature(), request.spec.outputs, request.onnx)
    # The engine inspector reports the achieved precision only with detailed profiling verbosity.
    settings = dataclasses.replace(request.settings, detailed=flavor.name == TENSORRT)
    network.configure(settings, request.profiles)
    if keeps_timings:
        network.use_timing_cache(request.timings)
    reporter.step("building")
    engine = network.run(
        make_monitor(flavor.trt, lambda done, phase: reporter.step(f"building: {done:.0%} ({phase.lower()})"))
    )
    if keeps_timings:
        reporter.timings(network.timing_cache())
    return engine


def _check(flavor: _ChosenFlavor, engine: Any, wanted: str, reporter: Reporter) -> dict[str, Any]:
    """What the device reports about the engine: the precision achieved, and whether the engine is valid."""
    if flavor.gpu is None:
        return {"achieved": NOT_CHECKED}
    reporter.step("inspecting")
    if flavor.name == TENSORRT_RTX:
        # Its kernels are compiled where it runs, so there is nothing to inspect yet.
        return {"achieved": "not checked: made on the device", "validity": validity(flavor.trt, engine)}
    achieved = achieved_precision(flavor.trt, engine)
    for kind in wanted.split("+"):
        if kind != "fp32" and not achieved.get(kind):
            raise EngineError(
                f"the engine was to run in {wanted} and no layer of it does in {kind} (layers: "
                f"{achieved}); it was not written, build it as what this GPU supports"
            )
    return {"achieved": achieved}


def _write(engine: Any, output: Path) -> None:
    data = memoryview(engine)
    require_space(output.parent, data.nbytes)
    try:
        with open(output, "wb") as stream:
            stream.write(data)
    except OSError as exc:
        raise UsageError(f"cannot write the engine into {output.parent}: {exc.strerror}") from exc


def _out_of_memory(exc: EngineError, memory: dict[str, Any], free: int | None) -> str:
    needed = (
        f"weights {memory['weights'] / 1e6:,.0f} MB, activations at least {memory['activations'] / 1e6:,.0f} "
        f"MB for the profile {memory['profile']}"
    )
    if free is not None:
        needed += f", {free / 1e6:,.0f} MB were free"
    return (
        f"the build most likely ran out of GPU memory: {exc} ({needed}); lower the profile's maximum, raise "
        "--workspace if you limited it, close what else uses the GPU, or use --fp16"
    )


def main() -> NoReturn:
    """Carry out the request in the file named on the command line, and report to the parent."""
    follow_parent()
    sender = Sender(take_stdout())
    logger = logging.getLogger(LOGGER)
    logger.addHandler(sender)
    logger.setLevel(int(sys.argv[2]))
    try:
        request = BuildRequest.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
        sender.built(build(request, sender))
    except Exception as exc:
        sender.error(exc)
    os._exit(0)  # skip the libraries' clean-up, which takes time


if __name__ == "__main__":
    main()
