"""The public surface: a name is added or removed here on purpose, never by accident."""

from __future__ import annotations

import pytest

import fcn_deploy

PUBLIC = [
    "BenchmarkResult",
    "Evaluation",
    "FcnDeployError",
    "ModelSpec",
    "Segmentation",
    "Segmenter",
    "__version__",
    "benchmark",
    "build_engine",
    "evaluate",
    "export_onnx",
    "load",
    "quantize",
]


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(fcn_deploy.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_found_and_listed(name: str) -> None:
    assert getattr(fcn_deploy, name) is not None
    assert name in dir(fcn_deploy)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise_everything'"):
        _ = fcn_deploy.quantise_everything
