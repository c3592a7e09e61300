"""An artefact against the original's answers: the verb ``check_answers``, and the gate for new graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_deploy.answers.comparison import AnswerLimits, compare_answers, default_limits
from fcn_deploy.answers.file import OriginalAnswers
from fcn_deploy.answers.mistakes.search import explain
from fcn_deploy.answers.result import AnswerCheck
from fcn_deploy.answers.running import AnswerFrame, answer_of_graph, answer_with
from fcn_deploy.errors import ParityError
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.lazy import installed, require
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.location import locate, shown
from fcn_deploy.runtimes.onnx_format import is_onnx_file
from fcn_deploy.runtimes.registry import load
from fcn_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

Step = Callable[[str], None]

_LOOKED_FOR_ELSEWHERE = (
    "which of the usual mistakes explains it is found on the fp32 or fp16 .onnx file that it was made from: "
    "fcn-deploy check MODEL.onnx ANSWERS.npz"
)


def check_answers(
    artefact: str | Path,
    answers: str | Path,
    *,
    min_agreement: float | None = None,
    max_logit_error: float | None = None,
    backend: str | None = None,
    device: str | None = None,
    progress: Step | None = None,
    **options: Any,
) -> AnswerCheck:
    """Compare an artefact with what the original network answered in its own training environment.

    Where a graph in fp32 or fp16 fails, the usual mistakes are tried on it, and those that explain it are
    named.

    Args:
        artefact: ``.onnx``, ``.safetensors``, ``.engine``, or a file or URL of another backend.
        answers: the ``.npz`` that was written there: frames, colour order, and logits or labels.
        min_agreement: share of equal labels that each frame must have, 0 to 1; by default 0.999 for fp32,
            0.998 for fp16, 0.95 for INT8.
        max_logit_error: largest difference of a logit, over the frame's largest; by default 0.002 for fp32,
            0.005 for fp16, and not judged for INT8.
        backend: what runs the artefact; None runs an ``.onnx`` in ONNX Runtime on the CPU, where its logits
            can be read without being an output.
        device: as :func:`fcn_deploy.load` takes it.
        progress: called with a few words as the work goes on.
        options: those of the backend.

    Returns:
        The figures, whether they are within the limits, and what explains them where they are not.

    Raises:
        UsageError: a file cannot be read, or a limit is out of range.
        SourceError: the answers file is not what it must be, or its frames or classes do not fit the
            artefact.
        ModelError, EngineError, BackendUnavailable, InferenceError: the artefact cannot be opened or run.
    """
    step = progress or (lambda _: None)
    location = locate(artefact)
    originals = OriginalAnswers(answers)
    limits = default_limits(read_spec(location), agreement=min_agreement, logit_error=max_logit_error)
    named_backend = any(value is not None for value in (backend, device, *options.values()))
    if not named_backend and is_onnx_file(location) and installed("onnx") and installed("onnxruntime"):
        graph, spec = read_model(Path(location))
        return check_graph(graph, spec, originals, shown(artefact), limits=limits, progress=step)
    with load(artefact, backend=backend, device=device, **options) as model:
        where = f"{model.backend} on {model.device}"
        check = _compared(
            answer_with(model.infer, model.spec), model.spec, originals, limits, shown(artefact), where, step
        )
    editable = is_onnx_file(location) and installed("onnx") and installed("onnxruntime")
    return _explained(check, read_model(Path(location))[0] if editable else None, originals, step)


def check_graph(
    graph: ModelProto,
    spec: ModelSpec,
    answers: str | Path | OriginalAnswers,
    name: str,
    *,
    limits: AnswerLimits | None = None,
    progress: Step = lambda _: None,
) -> AnswerCheck:
    """Compare a deploy graph, in ONNX Runtime.

    Args:
        graph: a deploy graph in memory.
        spec: its description.
        answers: the answers file.
        name: what messages call the graph.
        limits: None takes those of the graph's precision.
        progress: called with a few words as the work goes on.

    Raises:
        UsageError, SourceError: as :func:`check_answers`.
        ExportError: ONNX Runtime refuses the graph.
    """
    originals = answers if isinstance(answers, OriginalAnswers) else OriginalAnswers(answers)
    backend = f"onnxruntime {require('onnxruntime', extra='cpu').__version__} (CPU)"
    limits = limits or default_limits(spec)
    with answer_of_graph(graph, spec) as answer:
        check = _compared(answer, spec, originals, limits, name, backend, progress)
    return _explained(check, graph, originals, progress)


def require_answers(
    graph: ModelProto,
    spec: ModelSpec,
    answers: str | Path | OriginalAnswers,
    name: str,
    *,
    progress: Step = lambda _: None,
) -> dict[str, Any]:
    """Refuse a graph that does not answer as the original does: the gate of ``--check-against``.

    Args:
        graph: the deploy graph that is about to be written or built.
        spec: its description.
        answers: the answers file.
        name: what messages call the graph.
        progress: called with a few words as the work goes on.

    Returns:
        The record for ``evidence["answers"]``.

    Raises:
        ParityError: it differs beyond the limits of its precision; says by how much, and which of the usual
            mistakes explains it.
        UsageError, SourceError: as :func:`check_answers`.
    """
    check = check_graph(graph, spec, answers, name, progress=progress)
    if not check.passed:
        raise ParityError(f"{check.finding}; nothing was written")
    return check.evidence()


def _compared(
    answer: AnswerFrame,
    spec: ModelSpec,
    originals: OriginalAnswers,
    limits: AnswerLimits,
    name: str,
    backend: str,
    step: Step,
) -> AnswerCheck:
    def advance(done: int, total: int) -> None:
        step(f"comparing with the original: {done} of {total} frames")

    return AnswerCheck(
        artefact=name,
        answers=originals.path,
        sha256=originals.sha256,
        original=originals.note,
        backend=backend,
        spec=spec,
        comparison=compare_answers(originals, answer, spec, progress=advance),
        limits=limits,
        explanation=None,
        warnings=tuple(_other_names(originals, spec)),
    )


def _explained(
    check: AnswerCheck, graph: ModelProto | None, originals: OriginalAnswers, step: Step
) -> AnswerCheck:
    """The check with the mistakes that explain a failure, or with why none was looked for."""
    if check.passed:
        return check
    found = None
    if graph is not None and check.spec.precision in ("fp32", "fp16"):
        found = explain(graph, check.spec, originals, check.comparison, check.limits, progress=step)
    return replace(check, explanation=found, not_explained="" if found else _LOOKED_FOR_ELSEWHERE)


def _other_names(originals: OriginalAnswers, spec: ModelSpec) -> Iterator[str]:
    named = len(originals.classes)
    if named and named != spec.num_classes:
        yield f"{originals.path.name} names {named} classes, and this artefact has {spec.num_classes}"
        return
    for number, (theirs, ours) in enumerate(zip(originals.classes, spec.classes, strict=False)):
        if theirs != ours:
            yield f"class {number} is {theirs!r} in {originals.path.name} and {ours!r} in this artefact"
