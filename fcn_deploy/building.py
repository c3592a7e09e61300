"""An exported model -> an engine of the precision asked for: the verb ``build_engine``."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.answers.checking import require_answers
from fcn_deploy.answers.file import OriginalAnswers
from fcn_deploy.arguments import as_names
from fcn_deploy.errors import UsageError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.runtimes.artefact import read_spec

if TYPE_CHECKING:
    from fcn_deploy.export.tensorrt.result import EngineResult
    from fcn_deploy.runtimes.tensorrt.profiles import Profile

PRECISIONS = ("fp16", "int8")
"""What an fp32 file can be converted to on the way; the rest of an INT8 engine is fp16."""


def build_engine(
    model: str | Path,
    path: str | Path,
    *,
    precision: str | None = None,
    calib: str | Path | None = None,
    profiles: str | Profile | Iterable[str | Profile] | None = None,
    flavor: str = "auto",
    compute_capabilities: str | Iterable[str] = (),
    workspace: int | None = None,
    optimization_level: int | None = None,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    dla_core: int | None = None,
    timing_cache: str | Path | None = None,
    timeout: float | None = None,
    check_against: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> EngineResult:
    """Build a TensorRT engine of an exported model, and write its sidecar.

    TensorRT runs in a process of its own: where it crashes, this one continues. A build that fails or is
    interrupted leaves what was there before.

    Args:
        model: an ``.onnx`` that fcn-deploy exported or quantised.
        path: ``NAME.engine``; its sidecar ``NAME.engine.json`` is written beside it.
        precision: ``fp16`` or ``int8`` converts an fp32 file first, with the checks that ``export`` and
            ``quantize`` make; a file of that precision is used as it is. None uses any file as it is.
        calib: frames of your camera, an image folder or a video: needed for ``int8``, and for the range
            check of ``fp16``, which uses the synthetic clip where there are none.
        profiles: ranges of batch x height x width as ``min:opt:max``, such as
            ``1x360x480:1x720x960:4x1080x1920``, or one size. None means single frames up to Full HD.
        flavor: ``tensorrt``, ``rtx``, or ``auto``: TensorRT where it and a GPU are there, else RTX.
        compute_capabilities: GPUs to build for, such as ``8.6``; TensorRT-RTX only. The default is Ampere
            and later.
        workspace: bytes of scratch memory that kernels may use, at most.
        optimization_level: 0 (quickest build) to 5 (best engine).
        hardware_compatible: one engine for Ampere and every later GPU; TensorRT only.
        version_compatible: one engine for later versions too; TensorRT only.
        dla_core: the DLA core to place layers on, the rest on the GPU; TensorRT only, fp16 or INT8, and
            one profile of one size. Has not run on a device yet.
        timing_cache: where timings of kernels are kept for later builds; TensorRT only. None keeps them
            in ``NAME.engine.timing`` beside the engine.
        timeout: seconds that the build may take; None waits without limit.
        check_against: answers of the original network (``.npz``), as :func:`fcn_deploy.check_answers` takes
            them; the ONNX graph must pass before the engine is built. The engine itself is not run:
            ``check_answers`` does that where its GPU is.
        progress: called with the name of each step as it begins. An exception that it raises ends the build.

    Raises:
        UsageError: an argument cannot be used, or a file cannot be read or written.
        ModelError: the ONNX file is damaged, or carries no description.
        SourceError, CalibrationError: the frames cannot be used.
        ExportError: a layer overflows fp16.
        ParityError: the graph does not answer as ``check_against`` says; nothing was written.
        MissingDependency: the TensorRT asked for is not installed.
        BackendUnavailable: TensorRT is asked for where no GPU is.
        EngineError: TensorRT refuses the graph, crashes, runs out of memory or takes longer than
            ``timeout``, or the engine does not have the precision.
    """
    from fcn_deploy.export.tensorrt.builder import BuildSettings
    from fcn_deploy.export.tensorrt.engine import build_from_graph, check_arguments, resolve_profiles

    if precision not in (None, *PRECISIONS):
        raise UsageError(f"precision must be {' or '.join(PRECISIONS)}, not {precision!r}")
    settings = BuildSettings(
        workspace=workspace,
        optimization_level=optimization_level,
        compute_capabilities=tuple(dict.fromkeys(as_names(compute_capabilities))),
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        dla_core=dla_core,
    )
    # Before the conversion, which takes minutes.
    _, settings = check_arguments(path, settings, flavor, timeout)
    ranges = resolve_profiles(profiles, read_spec(model))
    begun = time.monotonic()
    step = progress or (lambda _: None)
    originals = None if check_against is None else OriginalAnswers(check_against)
    if originals is not None and precision is not None:
        _check_original(Path(model), originals, step)  # before the conversion
    with tempfile.TemporaryDirectory(prefix="fcn-deploy-") as folder:
        graph = _in_precision(Path(model), Path(folder), precision, calib, step)
        result = build_from_graph(
            graph,
            path,
            settings,
            profiles=ranges,
            flavor=flavor,
            timing_cache=timing_cache,
            require_precision=precision,
            timeout=timeout,
            evidence={} if originals is None else {"answers": _check_original(graph, originals, step)},
            progress=step,
        )
    return dataclasses.replace(result, seconds=time.monotonic() - begun)


def _check_original(model: Path, originals: OriginalAnswers, step: Callable[[str], None]) -> dict[str, Any]:
    """The evidence that an ONNX file answers as the original network does. Raises ParityError."""
    graph, spec = read_model(model)
    return require_answers(graph, spec, originals, str(model), progress=step)


def _in_precision(
    model: Path,
    folder: Path,
    wanted: str | None,
    calib: str | Path | None,
    step: Callable[[str], None],
) -> Path:
    """The graph to build from: the one given, or one made of it in ``folder``."""
    if wanted is None:
        if calib is not None:
            raise UsageError("--calib is for --int8 or --fp16; add one of them, or leave it out")
        return model
    found = read_spec(model).precision
    if found != "fp32":
        if calib is not None:
            raise UsageError(f"{model} is {found} already and is used as it is; leave out --calib")
        return model
    made = folder / f"{model.stem}.{wanted}.onnx"
    if wanted == "fp16":
        from fcn_deploy.export.fp16 import convert_file_to_fp16

        convert_file_to_fp16(model, made, calib=calib, step=step)
        return made
    if calib is None:
        raise UsageError(
            f"{model} is fp32, so --int8 needs frames of your camera: --calib FOLDER (a folder or a video)"
        )
    from fcn_deploy.calibration.quantization import quantize

    quantize(model, made, calib=calib, target="tensorrt", progress=step)
    return made
