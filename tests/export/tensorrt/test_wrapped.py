"""Engines of wrapped files: the real TensorRT-RTX builder takes what surrounds a foreign network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import fcn_deploy
from fcn_deploy.errors import UsageError
from fcn_deploy.export.tensorrt.profiles import check_profiles, default_profiles, parse_profile
from fcn_deploy.spec import Architecture, ModelSpec

pytest.importorskip("tensorrt_rtx")
sys.path.insert(0, str(Path(__file__).parents[1]))

import foreign_files as exporters

FORMS: dict[str, dict[str, Any]] = {
    "ultralytics": {},
    "mmdeploy_binary": {},
    "smp": {"size_multiple": 4, "outputs": ["logits", "confidence"]},
    "small_logits": {"logits_stride": 4, "size_multiple": 8},
    "small_labels": {"logits_stride": 4},
    "keras": {"outputs": "confidence"},
}


@pytest.mark.usefixtures("few_sizes")
@pytest.mark.parametrize("name", FORMS)
def test_every_form_builds(tmp_path: Path, name: str) -> None:
    original = getattr(exporters, name)(tmp_path / "original.onnx")
    made = fcn_deploy.wrap_model(original, tmp_path / "made.onnx", **exporters.IMAGENET, **FORMS[name])
    result = fcn_deploy.build_engine(
        made.path, tmp_path / "made.engine", flavor="rtx", compute_capabilities="8.6"
    )
    (profile,) = result.sidecar.profiles
    fixed = (1, 64, 96) if name == "ultralytics" else None
    assert (profile.min, profile.opt, profile.max) == (
        (fixed,) * 3 if fixed else ((1, 1, 1), (1, 360, 480), (1, 1080, 1920))
    )


@pytest.mark.usefixtures("few_sizes")
def test_a_fixed_file_becomes_fp16_on_the_way(tmp_path: Path) -> None:
    original = exporters.ultralytics(tmp_path / "original.onnx")
    made = fcn_deploy.wrap_model(original, tmp_path / "made.onnx", **exporters.IMAGENET)
    result = fcn_deploy.build_engine(
        *(made.path, tmp_path / "made.engine"), precision="fp16", flavor="rtx", compute_capabilities="8.6"
    )
    assert result.sidecar.spec.precision == "fp16"
    assert result.sidecar.spec.evidence["parent_parity"]["min_agreement"] > 0.99
    with pytest.raises(UsageError, match="another height than 64, and this model takes 1x64x96"):
        fcn_deploy.build_engine(made.path, tmp_path / "made.engine", profiles="1x360x480", flavor="rtx")


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec(("a", "b"), Architecture("onnx"), **fields)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"fixed_shape": (1, 64, 96)}, "1x64x96:1x64x96:1x64x96"),
        ({"fixed_shape": (None, 64, 96)}, "1x64x96:1x64x96:1x64x96"),
        ({"fixed_shape": (2, None, None)}, "2x1x1:2x360x480:2x1080x1920"),
        ({"min_height": 32, "min_width": 500}, "1x32x500:1x360x500:1x1080x1920"),
    ],
)
def test_the_default_profile_keeps_to_what_a_network_takes(fields: dict[str, Any], shown: str) -> None:
    (profile,) = check_profiles(default_profiles(spec(**fields)), spec(**fields))
    assert str(profile) == shown


def test_a_profile_below_the_smallest_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="begins below 32x32"):
        check_profiles([parse_profile("1x31x64")], spec(min_height=32, min_width=32))
