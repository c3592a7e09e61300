"""Our own safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_files import MakeModel, assert_holds, saved, spec_for, tiny_state

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.model.checkpoints import describe, load_checkpoint, load_safetensors, save_safetensors
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s
from fcn_deploy.safetensors_content import content_of_file
from fcn_deploy.spec import METADATA_KEY


@pytest.mark.parametrize("learned_upscore", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_round_trip(
    dtype: str, variant: str, learned_upscore: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    model, path = make_model(variant, learned_upscore=learned_upscore), tmp_path / "ours.safetensors"
    spec = spec_for(model, color_order="rgb", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), note="tiny")
    written = save_safetensors(model, spec, path, dtype=dtype)
    assert written.replace() == spec
    assert written.describes(content_of_file(path))

    wanted = {k: v.half() if dtype == "fp16" else v for k, v in model.state_dict().items()}
    loaded, found = load_safetensors(path)
    assert found == written
    assert_holds(loaded, wanted)
    assert loaded.variant == model.variant and loaded.learned_upscore == model.learned_upscore
    assert not loaded.training

    again, info = load_checkpoint(path)
    assert_holds(again, wanted)
    assert (info.kind, info.spec, info.mean, info.std) == ("safetensors", spec, spec.mean, spec.std)
    assert again.learned_upscore == model.learned_upscore
    assert [p.name for p in tmp_path.iterdir()] == ["ours.safetensors"]


def test_fp16_takes_half_the_bytes(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("fcn8s-same", fc_channels=64)
    for dtype in ("fp32", "fp16"):
        save_safetensors(model, spec_for(model), tmp_path / f"{dtype}.safetensors", dtype=dtype)
    sizes = [(tmp_path / f"{dtype}.safetensors").stat().st_size for dtype in ("fp32", "fp16")]
    assert 0.5 < sizes[1] / sizes[0] < 0.55


@pytest.mark.parametrize("variant", ["fcn8s", "fcn8s-same"])
def test_learned_upscores_stay_learned_before_they_are_trained(variant: str, tmp_path: Path) -> None:
    """In the same family the two differ at the border even while the kernels are bilinear."""
    model = FCN8s(3, variant, width=1, fc_channels=2, learned_upscore=True).eval()
    path = tmp_path / "fresh.safetensors"
    save_safetensors(model, spec_for(model), path)
    assert load_safetensors(path)[0].learned_upscore
    loaded, info = load_checkpoint(path)
    assert loaded.learned_upscore
    assert describe(loaded, info).architecture.options["learned_upscore"]


def test_a_description_follows_what_was_asked_of_the_upscores(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s-same"), tmp_path / "fixed.safetensors"
    save_safetensors(model, spec_for(model), path)
    freed, info = load_checkpoint(path, learned_upscore=True)
    assert freed.learned_upscore
    assert describe(freed, info).architecture.options["learned_upscore"]


def test_weights_that_fp16_cannot_hold_leave_the_old_file(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s-lite"), tmp_path / "big.safetensors"
    path.write_bytes(b"what stood here")
    with torch.no_grad():
        model.fc7.weight[0, 0] = 70000.0
    with pytest.raises(ModelError, match=r"fc7\.weight.*fp16"):
        save_safetensors(model, spec_for(model), path, dtype="fp16")
    assert path.read_bytes() == b"what stood here"
    assert list(tmp_path.iterdir()) == [path]
    save_safetensors(model, spec_for(model), path, dtype="fp32")
    assert load_safetensors(path)[0].fc7.weight[0, 0] == 70000.0


def test_nothing_is_written_where_there_is_no_folder(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("fcn8s-lite")
    with pytest.raises(UsageError, match="does not exist"):
        save_safetensors(model, spec_for(model), tmp_path / "none" / "a.safetensors")


def test_a_checkpoint_is_no_artefact(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(tiny_state(), plain, metadata={"variant": "fcn8s"})
    for path in (plain, saved(tmp_path / "plain.pth", tiny_state())):
        with pytest.raises(ModelError, match=rf"{path.name}.*no model description.*export"):
            load_safetensors(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema_version":99}', '{"schema_version":1,"colour":"red"}'],
)
def test_a_damaged_description_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    safetensors.torch.save_file(tiny_state(), path, metadata={METADATA_KEY: text})
    for load in (load_safetensors, load_checkpoint):
        with pytest.raises(ModelError, match=r"damaged\.safetensors"):
            load(path)


def test_a_description_of_other_weights_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s", num_classes=5), tmp_path / "mixed.safetensors"
    spec = spec_for(model, classes=("a", "b"))
    save_safetensors(model, spec, path)
    with pytest.raises(ModelError, match=r"mixed\.safetensors has 5 classes.*2"):
        load_safetensors(path)
