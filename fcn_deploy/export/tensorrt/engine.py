"""ONNX artefact -> engine and sidecar, with TensorRT 10, 11 or TensorRT-RTX: :func:`build_from_graph`.

Checks that do not need TensorRT are made here, the others in the process that builds
(:mod:`fcn_deploy.export.tensorrt.worker`).
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.arguments import as_integer
from fcn_deploy.errors import UsageError
from fcn_deploy.export.tensorrt.builder import BuildSettings
from fcn_deploy.export.tensorrt.declared import check_precision
from fcn_deploy.export.tensorrt.description import describe
from fcn_deploy.export.tensorrt.memory import working_set
from fcn_deploy.export.tensorrt.process import build_in_child
from fcn_deploy.export.tensorrt.profiles import check_profiles, default_profiles, parse_profile
from fcn_deploy.export.tensorrt.request import BuildRequest
from fcn_deploy.export.tensorrt.result import EngineResult
from fcn_deploy.export.tensorrt.source import SourceGraph, read_source
from fcn_deploy.files import atomic_output, check_output, require_space, sha256_of, write_bytes
from fcn_deploy.lazy import TENSORRT_MODULES, import_tensorrt, installed
from fcn_deploy.runtimes.artefact import identity
from fcn_deploy.runtimes.tensorrt.profiles import Profile, Size
from fcn_deploy.runtimes.tensorrt.sidecar import Sidecar, sidecar_path
from fcn_deploy.spec import ModelSpec

FLAVORS = ("auto", "tensorrt", "rtx")


def build_from_graph(
    onnx: str | Path,
    output: str | Path,
    settings: BuildSettings,
    *,
    profiles: str | Profile | Iterable[str | Profile] | None = None,
    flavor: str = "auto",
    timing_cache: str | Path | None = None,
    require_precision: str | None = None,
    timeout: float | None = None,
    evidence: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> EngineResult:
    """Build an engine of a graph in its own precision, and write its sidecar.

    What :func:`fcn_deploy.build_engine` does once the graph has the precision wanted; its arguments are
    explained there.

    Args:
        onnx: an ``.onnx`` that fcn-deploy exported or quantised.
        output: ``NAME.engine``; its sidecar ``NAME.engine.json`` is written beside it.
        settings: options of the build.
        profiles: ranges of batch x height x width.
        flavor: ``tensorrt``, ``rtx`` or ``auto``.
        timing_cache: where timings of kernels are kept.
        require_precision: ``fp32``, ``fp16``, ``int8`` or ``int8+fp16`` that the graph, and where a device
            is there the engine, must have; None requires what the model's description says.
        timeout: seconds that the process which builds may take.
        evidence: what was verified about the graph beside what its description says, by kind.
        progress: called in the thread of this call.

    Raises:
        UsageError, ModelError, MissingDependency, BackendUnavailable, EngineError: as
            :func:`fcn_deploy.build_engine`.
    """
    begun = time.monotonic()
    target, settings = check_arguments(output, settings, flavor, timeout)
    source = read_source(onnx)
    if evidence:
        spec = source.spec.replace(evidence={**source.spec.evidence, **evidence})
        source = dataclasses.replace(source, spec=spec)
    wanted = require_precision or source.spec.precision
    check_precision(source.declared, wanted, str(source.path))
    ranges = resolve_profiles(profiles, source.spec)
    request = BuildRequest(
        onnx=source.path,
        spec=source.spec,
        output=target,
        target=target,
        flavor=flavor,
        settings=settings,
        profiles=ranges,
        declared=source.declared.precision,
        wanted=wanted,
        memory=_estimate(source, ranges),
        timing_cache=None if timing_cache is None else Path(timing_cache),
    )
    try:
        sidecar = _write_pair(source, request, timeout, progress or (lambda _: None))
    except _CallersError as exc:
        raised = exc.error
    else:
        return EngineResult(target, sidecar, time.monotonic() - begun)
    raise raised  # out here, where it gets no other context


def check_arguments(
    output: str | Path, settings: BuildSettings, flavor: str, timeout: float | None
) -> tuple[Path, BuildSettings]:
    """Refuse what can be told without the graph and without TensorRT; before a graph is converted, too.

    Returns:
        The engine's path, and the settings with Python's own numbers.

    Raises:
        UsageError: an argument cannot be used, or the file cannot be written.
        MissingDependency: the TensorRT asked for is not installed.
    """
    target = check_output(output, (".engine",))
    if flavor not in FLAVORS:
        raise UsageError(f"unknown flavor {flavor!r}; choose from {', '.join(FLAVORS)}")
    settings = _with_plain_numbers(settings)
    if settings.optimization_level is not None and settings.optimization_level > 5:
        raise UsageError(f"optimization_level is from 0 to 5, not {settings.optimization_level}")
    if timeout is not None and not timeout > 0:
        raise UsageError(f"the timeout must be more than 0 seconds, not {timeout}")
    if not any(map(installed, TENSORRT_MODULES[flavor])):
        import_tensorrt(flavor)  # says what to install
    return target, settings


def _with_plain_numbers(settings: BuildSettings) -> BuildSettings:
    """The settings without numpy's numbers, which JSON does not know."""

    def whole(name: str, minimum: int) -> int | None:
        value = getattr(settings, name)
        return None if value is None else as_integer(name, value, minimum)

    return dataclasses.replace(
        settings,
        workspace=whole("workspace", 1),
        optimization_level=whole("optimization_level", 0),
        dla_core=whole("dla_core", 0),
        hardware_compatible=bool(settings.hardware_compatible),
        version_compatible=bool(settings.version_compatible),
    )


def resolve_profiles(
    given: str | Profile | Iterable[str | Profile] | None, spec: ModelSpec
) -> tuple[Profile, ...]:
    """The profiles asked for, or the default ones. Raises UsageError where one does not fit the model."""
    asked = [given] if isinstance(given, (str, Profile)) else given or ()
    chosen = [parse_profile(p) if isinstance(p, str) else p for p in asked]
    plain = [Profile(p.index, _size(p.min), _size(p.opt), _size(p.max)) for p in chosen]
    return check_profiles(plain or default_profiles(spec), spec)


def _size(size: Size) -> Size:
    """Without numpy's numbers."""
    batch, height, width = (as_integer("a length in a profile", length, 1) for length in size)
    return (batch, height, width)


def _estimate(source: SourceGraph, profiles: Sequence[Profile]) -> dict[str, Any]:
    """Bytes that the engine will need: of weights, and of activations for the profile with most."""
    largest = {str(p): working_set(source.graph, p.max) for p in profiles}
    profile = max(largest, key=lambda name: largest[name])
    return {
        "weights": source.declared.weight_bytes,
        "activations": largest[profile],
        "profile": profile,
    }


class _CallersError(Exception):
    """Carries an OSError of the caller's function past :func:`atomic_output`, which would take it for one of
    the file that is written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _callers_code() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _CallersError(exc) from exc


@dataclass(frozen=True)
class _Listener:
    """Receives what the build reports: a :class:`~fcn_deploy.export.tensorrt.request.Reporter`."""

    progress: Callable[[str], None]
    cache: Path

    def step(self, text: str) -> None:
        with _callers_code():
            self.progress(text)

    def warn(self, text: str) -> None:
        with _callers_code():  # it may have replaced warnings.showwarning
            warnings.warn(text, stacklevel=1)

    def timings(self, data: bytes) -> None:
        """Keep the timing cache. A failure is only a warning: the engine took minutes and is complete. Of two
        builds at the same time, the later one's file stays."""
        try:
            write_bytes(self.cache, data)
        except UsageError as exc:
            self.warn(f"the timings of this build were not kept: {exc}")


def _write_pair(
    source: SourceGraph, request: BuildRequest, timeout: float | None, progress: Callable[[str], None]
) -> Sidecar:
    """Write the engine and its sidecar, which take the places of earlier ones when both are complete."""
    target = request.target
    with atomic_output(sidecar_path(target)) as beside, atomic_output(target) as temporary:
        require_space(target.parent, source.declared.weight_bytes)
        sidecar = _write(source, dataclasses.replace(request, output=temporary), timeout, progress)
        # The sidecar is replaced last and holds the engine's hash: where the process is interrupted between
        # the two, loading refuses the pair.
        beside.write_text(sidecar.to_json(), encoding="utf-8")
    return sidecar


def _write(
    source: SourceGraph, request: BuildRequest, timeout: float | None, progress: Callable[[str], None]
) -> Sidecar:
    """Build the engine into ``request.output``, flush it to disk, and describe it."""
    begun = time.monotonic()
    built = build_in_child(request, _Listener(progress, request.timings), timeout)
    with ThreadPoolExecutor(2) as aside:
        # Hash while the disk writes; not during the build, which needs the processor.
        origin = aside.submit(identity, source.path)
        digest = aside.submit(sha256_of, request.output)
        with open(request.output, "rb+") as stream:
            os.fsync(stream.fileno())
    source.require_unchanged()
    return describe(
        source,
        request,
        built,
        sha256=digest.result(),
        size=request.output.stat().st_size,
        identity=origin.result(),
        seconds=time.monotonic() - begun,
    )
