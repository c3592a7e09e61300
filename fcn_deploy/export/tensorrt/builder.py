"""Every call that building an engine makes on TensorRT: 10.3 and later, 11, and TensorRT-RTX.

All three are called in the same way. Networks are strongly typed: precision is a property of the graph, not
a flag. Features of one flavor only (a timing cache, compute capabilities) are used where the caller asks.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.contract import Port
from fcn_deploy.errors import EngineError, UsageError
from fcn_deploy.runtimes.tensorrt.loading import log_for, port
from fcn_deploy.runtimes.tensorrt.profiles import Profile

_OUT_OF_MEMORY = re.compile(
    r"could not find any implementation|out of memory|outofmemory|insufficient (memory|workspace)|"
    r"requested amount of .*memory",
    re.IGNORECASE,
)
"""Messages of a build that ran out of memory. TensorRT skips tactics that do not fit into memory; with none
left it logs the first of these."""

_NO_DRIVER = "cudaError 35"
"""Logged after every other error on a machine without a driver."""


@dataclass(frozen=True)
class BuildSettings:
    """Options of a build; None keeps TensorRT's own default."""

    workspace: int | None = None
    """Bytes of scratch memory that kernels may use."""
    optimization_level: int | None = None
    """0 (quickest build) to 5 (best engine)."""
    compute_capabilities: tuple[str, ...] = ()
    """Such as ``8.6``; TensorRT-RTX only."""
    hardware_compatible: bool = False
    """One engine for Ampere and every later GPU."""
    version_compatible: bool = False
    """One engine for later versions of TensorRT."""
    dla_core: int | None = None
    detailed: bool = False
    """Keep in the engine what the engine inspector needs to report each layer's precision."""


class LogCapture(logging.Handler):
    """Collects the warnings and errors that TensorRT logs, from any thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: Counter[str] = Counter()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = _shortened(record.getMessage())
        if record.levelno < logging.ERROR:
            self.warnings[text] += 1
        else:
            self.errors.append(text)

    def reason(self) -> str:
        """TensorRT's last error message."""
        found = [text for text in self.errors if _NO_DRIVER not in text] or self.errors
        return found[-1] if found else "it gave no reason"

    def ran_out_of_memory(self) -> bool:
        return any(_OUT_OF_MEMORY.search(text) for text in (*self.errors, *self.warnings))

    def summary(self) -> dict[str, Any]:
        """Counts, and the first warnings, for the sidecar."""
        return {
            "warnings": self.warnings.total(),
            "errors": len(self.errors),
            "first_warnings": list(self.warnings)[:5],
        }


@contextmanager
def capture_log() -> Iterator[LogCapture]:
    """Collect what TensorRT logs until the block ends."""
    log, logger = LogCapture(), logging.getLogger("fcn_deploy.tensorrt")
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)


def _shortened(text: str) -> str:
    """A message on one line, without the file names and line numbers of TensorRT's sources."""
    return re.sub(r"[.:]?\s*\bIn \S+ at \S+:\d+", "", " ".join(text.split()))


def compute_capabilities_of(trt: Any) -> dict[str, Any]:
    """What TensorRT-RTX builds for: ``8.6`` -> its enum member."""
    found = {}
    for name, member in trt.ComputeCapability.__members__.items():
        if match := re.fullmatch(r"SM(\d+)(\d)", name):
            found[f"{match[1]}.{match[2]}"] = member
    return found


class Build:
    """One network with its configuration: :meth:`parse`, :meth:`configure`, :meth:`run`."""

    def __init__(self, trt: Any, name: str, log: LogCapture) -> None:
        self._trt = trt
        self._name = name
        self._log = log
        try:
            self._builder = trt.Builder(log_for(trt))
        except TypeError as exc:  # raised by the bindings where the builder could not be created
            raise EngineError(f"{name} could not start its builder: {log.reason()}") from exc
        # TensorRT 10 needs the flag; in 11 every network is strongly typed.
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(flag)
        self._config = self._builder.create_builder_config()

    def parse(self, path: Path) -> None:
        """Read an ONNX file by its path, because its weights may be in another file beside it.

        Raises:
            EngineError: the parser refuses it; the message names the node.
        """
        self._parser = self._trt.OnnxParser(self._network, log_for(self._trt))
        if not self._parser.parse_from_file(str(path)):
            problems = [self._parser.get_error(i) for i in range(self._parser.num_errors)]
            problem = _parser_message(problems[-1]) if problems else self._log.reason()
            raise EngineError(
                f"{self._name} does not accept {path}: {problem}; export it again with fcn-deploy, or run "
                "the .onnx file itself with ONNX Runtime"
            )

    def signature(self) -> tuple[dict[str, Port], dict[str, Port]]:
        """Inputs and outputs of the network, by name."""
        network = self._network
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        return (
            {tensor.name: port(tensor.dtype, tensor.shape) for tensor in inputs},
            {tensor.name: port(tensor.dtype, tensor.shape) for tensor in outputs},
        )

    def configure(self, settings: BuildSettings, profiles: tuple[Profile, ...]) -> None:
        """Raises EngineError where a setting is refused."""
        trt, config = self._trt, self._config
        for profile in profiles:
            self._add(profile)
        if settings.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
        if settings.optimization_level is not None:
            config.builder_optimization_level = settings.optimization_level
        if settings.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.detailed:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if settings.compute_capabilities:
            known = compute_capabilities_of(trt)
            config.num_compute_capabilities = len(settings.compute_capabilities)
            for place, wanted in enumerate(settings.compute_capabilities):
                config.set_compute_capability(known[wanted], place)
        if settings.dla_core is not None:
            self._use_dla(settings.dla_core)

    def _add(self, profile: Profile) -> None:
        shapes = self._builder.create_optimization_profile()
        shapes.set_shape("image", *((*size, 3) for size in (profile.min, profile.opt, profile.max)))
        if self._config.add_optimization_profile(shapes) < 0:
            raise EngineError(f"{self._name} refuses the profile {profile}: {self._log.reason()}")

    def _use_dla(self, core: int) -> None:
        cores = self._builder.num_DLA_cores
        if core >= cores:
            raise EngineError(
                f"DLA core {core} was asked for and this machine has {cores}; leave out --dla-core"
            )
        self._config.default_device_type = self._trt.DeviceType.DLA
        self._config.DLA_core = core
        self._config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)

    def use_timing_cache(self, path: Path) -> None:
        """Start from the timings of earlier builds, where the file has any that fit this device.

        Raises:
            UsageError: the file cannot be read.
        """
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as exc:
            raise UsageError(f"the timing cache {path} cannot be read: {exc.strerror}") from exc
        cache = self._config.create_timing_cache(data)
        if cache is None or not self._config.set_timing_cache(cache, False):
            # The file is of another device or version: start with an empty cache.
            self._config.set_timing_cache(self._config.create_timing_cache(b""), False)

    def timing_cache(self) -> bytes:
        """The timings of this build and of those before it."""
        return bytes(self._config.get_timing_cache().serialize())

    def run(self, monitor: Any) -> Any:
        """Build.

        Args:
            monitor: what :func:`make_monitor` gives.

        Returns:
            The serialized engine, TensorRT's own memory with the buffer protocol.

        Raises:
            EngineError: the build failed; the message has TensorRT's last error.
        """
        self._config.progress_monitor = monitor
        engine = self._builder.build_serialized_network(self._network, self._config)
        if engine is None:
            raise EngineError(f"{self._name} could not build the engine: {self._log.reason()}")
        return engine


def _parser_message(error: Any) -> str:
    named = f" {error.node_name()!r}" if error.node_name() else ""
    where = f"node{named} ({error.node_operator()}): " if error.node_operator() else ""
    # The parser's assertions have their message in quotes: creator && "Plugin not found ..."
    text = re.sub(r'^.*&& "(.*)"$', r"\1", _shortened(error.desc()))
    return f"{where}{text.rstrip('.')}"


def make_monitor(trt: Any, report: Callable[[float, str], None]) -> Any:
    """TensorRT's progress as one fraction. It never cancels a build: that has crashed TensorRT-RTX 1.7.

    Args:
        trt: the module, for its class ``IProgressMonitor``.
        report: called with the fraction done, 0 to 1, and the phase; TensorRT's threads call it. It must not
            raise, because an exception must not pass through TensorRT's own frames.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (parent_phase, max(num_steps, 1), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            # Two threads may have phases of the same name; the first to finish removes the entry.
            parent, steps, _ = self._phases.get(phase_name, (None, step + 1, step))
            self._phases[phase_name] = (parent, steps, step + 1)
            report(self._fraction(phase_name), phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def _fraction(self, phase: str) -> float:
            """The share done: the steps of a phase are parts of one step of its parent phase."""
            done = 0.0
            name: str | None = phase
            while name is not None and name in self._phases:
                name, steps, finished = self._phases[name]
                done = min(1.0, (finished + done) / steps)
            return done

    return Monitor()


def achieved_precision(trt: Any, engine: Any) -> dict[str, int]:
    """Layers of a built engine by the type they read, from TensorRT's inspector. Needs the device.

    Has not run on a device yet.

    Raises:
        EngineError: the engine cannot be opened or inspected here.
    """
    runtime = trt.Runtime(log_for(trt))
    # This process built the engine itself, so it is trusted.
    runtime.engine_host_code_allowed = True
    opened = runtime.deserialize_cuda_engine(engine)
    if opened is None:
        raise EngineError("the engine was built and cannot be opened on the GPU that built it")
    inspector = opened.create_engine_inspector()
    return count_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def count_layers(report: str) -> dict[str, int]:
    """The inspector's JSON -> layers by the element type of what they read.

    Raises:
        EngineError: the report has an unknown format.
    """
    try:
        layers = json.loads(report)["Layers"]
        formats = [
            " ".join(tensor["Format/Datatype"] for tensor in layer["Inputs"])
            for layer in layers
            if layer["LayerType"] not in ("Constant", "NoOp", "Reformat")
        ]
    except (ValueError, KeyError, TypeError) as exc:
        raise EngineError(
            f"the engine inspector's report could not be read ({type(exc).__name__}: {exc}), so the "
            "precision that was achieved is not known"
        ) from exc
    return dict(Counter(_kind(text) for text in formats))


def _kind(formats: str) -> str:
    words = {"int8": r"int8", "fp16": r"fp16|half", "fp32": r"fp32|float"}
    return next((kind for kind, word in words.items() if re.search(word, formats, re.IGNORECASE)), "other")


def validity(trt: Any, engine: Any) -> str:
    """TensorRT-RTX's validity of an engine on the GPU here: ``valid``, ``suboptimal`` or ``invalid``."""
    runtime = trt.Runtime(log_for(trt))
    return str(runtime.get_engine_validity(engine)[0].name).lower()
