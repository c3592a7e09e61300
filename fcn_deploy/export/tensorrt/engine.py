"""ONNX artefact -> engine and sidecar, with TensorRT 10, 11 or TensorRT-RTX."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.contract import check_deploy_graph
from fcn_deploy.errors import BackendUnavailable, EngineError, ModelError, UsageError
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
from fcn_deploy.export.tensorrt.declared import Declared, check_honoured, declared_precision
from fcn_deploy.export.tensorrt.memory import working_set
from fcn_deploy.export.tensorrt.profiles import check_profiles, default_profiles, is_static, parse_profile
from fcn_deploy.files import atomic_output, input_file, require_space, write_bytes
from fcn_deploy.lazy import import_tensorrt, installed, require
from fcn_deploy.runtimes.artefact import identity, read_spec
from fcn_deploy.runtimes.cuda.gpus import Gpu, describe_gpu, free_memory, gpu_problem
from fcn_deploy.runtimes.onnx_file import check_external_data, without_weights
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.runtimes.tensorrt.sidecar import (
    NOT_CHECKED,
    TENSORRT,
    TENSORRT_RTX,
    EngineTarget,
    Sidecar,
    product_name,
    sidecar_path,
    this_platform,
)
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto


FLAVORS = ("auto", "tensorrt", "rtx")


RTX_PORTABLE = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT-RTX builds for when it is told nothing; its engines then run on later GPUs too.
Source: "CPU-Only AOT and TensorRT-RTX Engines" in its documentation."""


@dataclass(frozen=True)
class _Line:
    """The TensorRT that builds, and the GPU that it has."""

    trt: Any
    name: str
    gpu: Gpu | None

    @property
    def called(self) -> str:
        return f"{product_name(self.name)} {self.trt.__version__}"


@dataclass(frozen=True)
class _Subject:
    """The graph that is built, without the contents of its weights."""

    path: Path
    spec: ModelSpec
    graph: ModelProto
    declared: Declared
    state: tuple[int, ...]
    """Of the file when it was read."""

    def require_unchanged(self) -> None:
        """Raises ModelError where the file is not what was read any more."""
        if _state(self.path) != self.state:
            raise ModelError(f"{self.path} was changed while an engine was built from it; build it again")


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def build_engine(
    onnx: str | Path,
    output: str | Path,
    *,
    profiles: Iterable[str | Profile] | None = None,
    flavor: str = "auto",
    compute_capabilities: Iterable[str] = (),
    workspace: int | None = None,
    optimization_level: int | None = None,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    dla_core: int | None = None,
    timing_cache: str | Path | None = None,
    require_precision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Sidecar:
    """Build an engine of an exported model, and write what it is beside it.

    The graph's precision is the engine's: convert it first (``export --precision fp16``, ``quantize``).
    An interrupted build leaves what was there before.

    Args:
        onnx: an ``.onnx`` that fcn-deploy exported or quantised.
        output: ``NAME.engine``; its sidecar ``NAME.engine.json`` lands beside it.
        profiles: ranges of batch x height x width as ``min:opt:max``, such as
            ``1x360x480:1x720x960:4x1080x1920``, or one size. None takes single frames up to Full HD.
        flavor: ``tensorrt``, ``rtx``, or ``auto``: TensorRT where it and a GPU are there, else RTX.
        compute_capabilities: GPUs to build for, such as ``8.6``; TensorRT-RTX only. None given builds for
            Ampere and later.
        workspace: bytes of scratch memory that kernels may use, at most.
        optimization_level: 0 (quickest build) to 5 (best engine).
        hardware_compatible: one engine for Ampere and every later GPU; TensorRT only.
        version_compatible: one engine for later versions too; TensorRT only.
        dla_core: the DLA core to place layers on, the rest on the GPU; TensorRT only, fp16 or INT8, and
            one profile of one size. Has not run on a device yet.
        timing_cache: where timings of kernels are kept for later builds; TensorRT only. None keeps them
            in ``NAME.engine.timing`` beside the engine.
        require_precision: ``fp32``, ``fp16``, ``int8`` or ``int8+fp16`` that the graph, and where a device
            is there the engine, must honour; None requires what the model's description says.
        progress: called with a few words as the work goes on.

    Returns:
        What was written beside the engine.

    Raises:
        UsageError: an argument cannot be used, or the place cannot be written.
        ModelError: the ONNX file is damaged, or carries no description.
        MissingDependency: the TensorRT asked for is not installed.
        BackendUnavailable: TensorRT is asked for where no GPU is.
        EngineError: TensorRT refuses the graph, runs out of memory, or the precision is not honoured.
    """
    target = Path(output)
    if target.suffix != ".engine":
        raise UsageError(f"{target}: the name of an engine must end in .engine")
    settings = BuildSettings(
        workspace=workspace,
        optimization_level=optimization_level,
        compute_capabilities=tuple(dict.fromkeys(compute_capabilities)),
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        dla_core=dla_core,
    )
    _check_settings(settings)
    subject = _read(onnx)
    wanted = require_precision or subject.spec.precision
    check_honoured(subject.declared, wanted, str(subject.path))
    ranges = _profiles(profiles, subject.spec)
    line = _choose(flavor, settings)
    _check_line(line, settings, subject, ranges, timing_cache)
    require_space(target.parent, subject.declared.weight_bytes)
    cache = None
    if line.name == TENSORRT:
        settings = dataclasses.replace(settings, detailed=True)
        cache = Path(timing_cache) if timing_cache else Path(f"{target}.timing")
    work = _Work(subject, ranges, settings, line, cache, wanted, progress or (lambda _: None))
    return work.write(target)


def _read(onnx: str | Path) -> _Subject:
    path = input_file(onnx, "ONNX file")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} is no ONNX file; engines are built from what export or quantize wrote")
    state = _state(path)
    spec = read_spec(path)
    quantised = spec.evidence.get("quantization")
    if isinstance(quantised, dict) and quantised.get("target") == "cpu":
        raise UsageError(
            f"{path} was quantised for CPUs, and TensorRT does not build such a graph; make one with: "
            "fcn-deploy quantize model.onnx --target tensorrt"
        )
    check_external_data(path)
    package = require("onnx", extra="export")
    graph = package.load_from_string(without_weights(path))
    return _Subject(path, spec, graph, declared_precision(graph), state)


def _check_settings(settings: BuildSettings) -> None:
    if settings.workspace is not None and settings.workspace < 1:
        raise UsageError(f"the workspace must be at least one byte, not {settings.workspace}")
    if settings.optimization_level is not None and not 0 <= settings.optimization_level <= 5:
        raise UsageError(f"the optimization level is from 0 to 5, not {settings.optimization_level}")
    if settings.dla_core is not None and settings.dla_core < 0:
        raise UsageError(f"the DLA core must be 0 or more, not {settings.dla_core}")


def _profiles(given: Iterable[str | Profile] | None, spec: ModelSpec) -> tuple[Profile, ...]:
    chosen = [parse_profile(p) if isinstance(p, str) else p for p in given or ()]
    return check_profiles(chosen or default_profiles(spec), spec)


def _choose(flavor: str, settings: BuildSettings) -> _Line:
    """The TensorRT to build with. TensorRT proper needs a GPU, TensorRT-RTX does not."""
    if flavor not in FLAVORS:
        raise UsageError(f"unknown flavor {flavor!r}; choose from {', '.join(FLAVORS)}")
    problem = gpu_problem()
    if flavor == "auto" and installed("tensorrt_rtx") and (problem or settings.compute_capabilities):
        flavor = "rtx"
    trt = import_tensorrt(flavor)
    name = TENSORRT_RTX if trt.__name__ == "tensorrt_rtx" else TENSORRT
    if name == TENSORRT and problem:
        raise BackendUnavailable(
            f"TensorRT builds on the GPU that it builds for, and {problem}; build on the device itself, or "
            "for GeForce and RTX GPUs with --flavor rtx, which needs none"
        )
    return _Line(trt, name, describe_gpu())


def _check_line(
    line: _Line,
    settings: BuildSettings,
    subject: _Subject,
    profiles: Sequence[Profile],
    timing_cache: str | Path | None,
) -> None:
    """Refuse what the other line has."""
    if line.name == TENSORRT:
        if settings.compute_capabilities:
            raise UsageError(
                "TensorRT builds for the GPU that it runs on; compute capabilities are for --flavor rtx (see "
                "--hardware-compatible for one engine on several GPUs)"
            )
        if settings.dla_core is not None:
            _check_dla(subject.declared, profiles)
        return
    only_tensorrt = {
        "--hardware-compatible": settings.hardware_compatible,
        "--version-compatible": settings.version_compatible,
        "--dla-core": settings.dla_core is not None,
        "--timing-cache": timing_cache is not None,
    }
    for option, given in only_tensorrt.items():
        if given:
            raise UsageError(f"{option} is TensorRT's; TensorRT-RTX has none of it, leave it away")
    known = compute_capabilities_of(line.trt)
    for capability in settings.compute_capabilities:
        if capability not in known:
            raise UsageError(
                f"{line.called} does not build for compute capability {capability}, only for "
                f"{', '.join(known)}; a Jetson or a data-centre GPU needs TensorRT, run on the device itself"
            )


def _check_dla(declared: Declared, profiles: Sequence[Profile]) -> None:
    if declared.precision == "fp32":
        raise UsageError("a DLA computes in fp16 and INT8 only; add --fp16 or --int8")
    if not is_static(profiles):
        raise UsageError("a DLA takes frames of one size; give one --profile such as 1x360x480")


@dataclass(frozen=True)
class _Work:
    """A build of which everything is known and checked."""

    subject: _Subject
    profiles: tuple[Profile, ...]
    settings: BuildSettings
    line: _Line
    timing_cache: Path | None
    wanted: str
    step: Callable[[str], None]

    def write(self, target: Path) -> Sidecar:
        """Build, check and write. The sidecar is replaced last and names the engine's hash: whoever is
        interrupted between the two has a pair that is refused."""
        begun = time.monotonic()
        memory = self._estimate()
        with (
            ThreadPoolExecutor(2) as aside,
            capture_log() as heard,
            atomic_output(sidecar_path(target)) as beside,
            atomic_output(target) as temporary,
        ):
            engine = self._run(heard, memory)
            checked = self._check(engine)
            self.step("writing")
            data = memoryview(engine)
            require_space(target.parent, data.nbytes)
            # The processor hashes while the disk writes; during the build it has enough to do.
            parent = aside.submit(identity, self.subject.path)
            digest = aside.submit(lambda: hashlib.sha256(data).hexdigest())
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            origin = parent.result()
            self.subject.require_unchanged()
            sidecar = self._describe(
                digest.result(),
                data.nbytes,
                origin,
                checked,
                {
                    "seconds": round(time.monotonic() - begun, 2),
                    "settings": self._settings(),
                    "memory": memory,
                    "log": heard.summary(),
                    "notes": self._notes(),
                },
            )
            beside.write_text(sidecar.to_json(), encoding="utf-8")
        return sidecar

    def _estimate(self) -> dict[str, Any]:
        """What the engine will take on its device, and a warning where that is more than is free."""
        largest = {str(p): working_set(self.subject.graph, p.max) for p in self.profiles}
        profile = max(largest, key=lambda name: largest[name])
        weights = self.subject.declared.weight_bytes
        free = free_memory() if self.line.gpu else None
        total = weights + largest[profile]
        if free is not None and total > free:
            warnings.warn(
                f"the engine will take at least {total / 1e6:,.0f} MB for the profile {profile} and the GPU "
                f"has {free / 1e6:,.0f} MB free; a smaller maximum needs less",
                stacklevel=1,
            )
        return {"weights": weights, "activations": largest[profile], "profile": profile, "free": free}

    def _run(self, heard: LogCapture, memory: dict[str, Any]) -> Any:
        """Build in a thread of its own: TensorRT hands Ctrl-C to nobody, the monitor stops it."""
        monitor = make_monitor(
            self.line.trt, lambda done, phase: self.step(f"building: {done:.0%} ({phase.lower()})")
        )
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(self._build, heard, monitor)
            try:
                engine = building.result()
            except EngineError as exc:
                if monitor.failure is not None:
                    raise monitor.failure from exc
                if heard.ran_out_of_memory():
                    raise EngineError(_out_of_memory(exc, memory)) from exc
                raise
            except BaseException:
                monitor.stop()
                raise
        if monitor.failure is not None:  # at the very last step, which nothing follows
            raise monitor.failure
        return engine

    def _build(self, heard: LogCapture, monitor: Any) -> Any:
        self.step("parsing")
        build = Build(self.line.trt, self.line.called, heard)
        build.parse(self.subject.path)
        check_deploy_graph(*build.signature(), self.subject.spec, self.subject.path)
        build.configure(self.settings, self.profiles)
        if self.timing_cache is not None:
            build.use_timing_cache(self.timing_cache)
        self.step("building")
        engine = build.run(monitor)
        if self.timing_cache is not None:
            self._keep_timings(self.timing_cache, build.timing_cache())
        return engine

    def _keep_timings(self, path: Path, data: bytes) -> None:
        """An engine that took minutes is not lost because they cannot be kept. Of two builds at once the
        later one's stay, whole."""
        try:
            write_bytes(path, data)
        except UsageError as exc:
            warnings.warn(f"the timings of this build were not kept: {exc}", stacklevel=1)

    def _check(self, engine: Any) -> dict[str, Any]:
        """What a device says of the engine: the precision achieved, and whether it will run there."""
        if self.line.gpu is None:
            return {"achieved": NOT_CHECKED}
        self.step("inspecting")
        if self.line.name == TENSORRT_RTX:
            # Its kernels are made where it runs, so there is nothing to inspect yet.
            return {
                "achieved": "not checked: made on the device",
                "validity": validity(self.line.trt, engine),
            }
        achieved = achieved_precision(self.line.trt, engine)
        for kind in self.wanted.split("+"):
            if kind != "fp32" and not achieved.get(kind):
                raise EngineError(
                    f"the engine was to run in {self.wanted} and no layer of it does in {kind} (layers: "
                    f"{achieved}); it was not written, build it as what this GPU supports"
                )
        return {"achieved": achieved}

    def _describe(
        self, sha256: str, size: int, parent: str, checked: dict[str, Any], build: dict[str, Any]
    ) -> Sidecar:
        declared, subject = self.subject.declared, self.subject
        spec = subject.spec.replace(
            precision=declared.precision,
            # What was verified about the graph is the graph's.
            evidence={("parent_parity" if k == "parity" else k): v for k, v in subject.spec.evidence.items()},
        ).with_parent(kind="onnx", name=subject.path.name, sha256=parent)
        return Sidecar(
            spec=spec,
            flavor=self.line.name,
            version=self.line.trt.__version__,
            version_compatible=self.settings.version_compatible,
            target=self._target(),
            profiles=self.profiles,
            precision={
                "declared": {
                    "precision": declared.precision,
                    "layers": dict(declared.layers),
                    "weight_bytes": declared.weight_bytes,
                    "engine_to_fp32_weights": round(size / (4 * max(declared.parameters, 1)), 3),
                },
                **checked,
            },
            engine_sha256=sha256,
            engine_bytes=size,
            onnx={"name": subject.path.name, "identity": parent},
            build=build,
        )

    def _settings(self) -> dict[str, Any]:
        """Those that were given, but for what :attr:`Sidecar.target` says already."""
        given = dataclasses.asdict(self.settings)
        shown = ("workspace", "optimization_level", "hardware_compatible", "version_compatible")
        return {name: given[name] for name in shown}

    def _notes(self) -> list[str]:
        """What its user should know and no check can tell."""
        notes = []
        if self.line.name == TENSORRT_RTX and self.subject.declared.layers.get("int8"):
            notes.append(
                "TensorRT-RTX's support matrix does not list INT8 convolutions, though its builder accepts "
                "them: measure this engine against an fp16 one"
            )
        if self.settings.dla_core is not None:
            notes.append("DLA is unproven: no engine of fcn-deploy has run on one yet")
        return notes

    def _target(self) -> EngineTarget:
        if self.line.name == TENSORRT_RTX:
            chosen = self.settings.compute_capabilities
            return EngineTarget("any", chosen or RTX_PORTABLE, later=not chosen)
        if self.settings.hardware_compatible:
            return EngineTarget(this_platform(), ("8.0",), later=True)
        gpu = self.line.gpu
        if gpu is None:
            raise EngineError("the GPU that TensorRT built on cannot be named; check its driver")
        return EngineTarget(
            this_platform(), (gpu.compute_capability,), gpu=gpu.name, dla_core=self.settings.dla_core
        )


def _out_of_memory(exc: EngineError, memory: dict[str, Any]) -> str:
    needed = (
        f"weights {memory['weights'] / 1e6:,.0f} MB, activations at least {memory['activations'] / 1e6:,.0f} "
        f"MB for the profile {memory['profile']}"
    )
    if memory["free"] is not None:
        needed += f", {memory['free'] / 1e6:,.0f} MB were free"
    return (
        f"the build most likely ran out of GPU memory: {exc} ({needed}); lower the profile's maximum, raise "
        "--workspace if you limited it, close what else uses the GPU, or use --fp16"
    )
