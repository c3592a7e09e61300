"""The public surface: a name is added or removed here on purpose, never by accident."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import fcn_deploy
from fcn_deploy.results import Result

PUBLIC = [
    "AnswerCheck",
    "Architecture",
    "BenchmarkResult",
    "EngineResult",
    "Evaluation",
    "ExportResult",
    "FcnDeployError",
    "ModelSpec",
    "QuantizationResult",
    "Reference",
    "Segmentation",
    "Segmenter",
    "__version__",
    "benchmark",
    "build_engine",
    "check_answers",
    "evaluate",
    "export_model",
    "load",
    "quantize",
    "wrap_model",
]
VERBS = (
    *("benchmark", "build_engine", "check_answers", "evaluate", "export_model", "load"),
    *("quantize", "wrap_model"),
)


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(fcn_deploy.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_found_and_listed(name: str) -> None:
    assert getattr(fcn_deploy, name) is not None
    assert name in dir(fcn_deploy)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise_everything'"):
        _ = fcn_deploy.quantise_everything


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_bears_the_name_of_a_module(verb: str) -> None:
    """``import fcn_deploy.export`` must not replace a function by a package. The modules of the command line
    bear the names of their commands; nobody imports them from the package."""
    package = Path(fcn_deploy.__file__).parent
    modules = {path.stem for path in package.rglob("*.py") if "cli" not in path.relative_to(package).parts}
    packages = {path.name for path in package.rglob("*") if path.is_dir()}
    assert verb not in modules | packages


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_says_what_it_returns(verb: str) -> None:
    """Each result object is public too, and is one of Result; ``load`` gives a Segmenter."""
    returned = inspect.signature(getattr(fcn_deploy, verb)).return_annotation
    assert returned in fcn_deploy.__all__
    if verb != "load":
        assert issubclass(getattr(fcn_deploy, returned), Result)
