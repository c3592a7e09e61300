"""Descriptions of loaded weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
from checkpoint_files import MakeModel, saved, spec_for, tiny_state, vgg16, vgg16_state

from fcn_deploy.classes import (
    BUILTIN_CLASSES,
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    VOC_CLASSES,
    default_palette,
    neutral_names,
    voc_palette,
)
from fcn_deploy.errors import ModelError
from fcn_deploy.files import sha256_of
from fcn_deploy.model.checkpoints import (
    CheckpointInfo,
    describe,
    load_checkpoint,
    random_model,
    save_safetensors,
)
from fcn_deploy.model.checkpoints.describe import in_memory
from fcn_deploy.spec import CAFFE_MEAN_BGR, Architecture, Reference


def test_describe_states_what_the_weights_tell(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", tiny_state(classes=21, channels=2, fc=3))
    spec = describe(*load_checkpoint(path, variant="fcn8s-atonce"))
    options = {"width": 2, "fc_channels": 3, "learned_upscore": False}
    assert (spec.architecture, spec.num_classes) == (Architecture("fcn8s-atonce", options), 21)
    assert (spec.stride, spec.size_multiple) == (32, 1)
    assert spec.classes == neutral_names(21) and spec.ignore_label == 255
    assert spec.palette == voc_palette(21)
    assert spec.mean == CAFFE_MEAN_BGR and spec.std == (1.0, 1.0, 1.0) and spec.color_order == "bgr"
    assert spec.provenance == ({"kind": "checkpoint", "name": "mine.pth", "sha256": sha256_of(path)},)


@pytest.mark.parametrize("classes", [2, 11, 20])
def test_describe_guesses_no_names_from_their_number(classes: int) -> None:
    """Eleven classes were CamVid's once, with its ignore label, whatever they had been trained on."""
    spec = describe(*random_model(classes, "fcn8s-lite", width=1, fc_channels=1))
    assert (spec.classes, spec.ignore_label) == (neutral_names(classes), 255)
    assert spec.palette == default_palette(classes) and "random" in spec.note


@pytest.mark.parametrize("name", BUILTIN_CLASSES)
def test_names_of_a_known_data_set_bring_its_colours_and_ignore_label(name: str) -> None:
    names, palette, ignore_label = BUILTIN_CLASSES[name]
    model, info = random_model(len(names), "fcn8s-lite", width=1, fc_channels=1)
    spec = describe(model, info, classes=names, palette=())
    assert (spec.classes, spec.palette, spec.ignore_label) == (names, palette, ignore_label)
    stated = describe(model, info, classes=names, ignore_label=200)
    assert (stated.palette, stated.ignore_label) == (palette, 200)


@pytest.mark.parametrize("text", ["camvid", json.dumps(CAMVID_CLASSES)], ids=["name", "list"])
def test_metadata_may_name_the_classes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "camvid.safetensors"
    metadata = {"variant": "fcn8s-lite", "classes": text}
    safetensors.torch.save_file(tiny_state(classes=11), path, metadata=metadata)
    model, info = load_checkpoint(path)
    spec = describe(model, info)
    assert (spec.classes, spec.palette, spec.ignore_label) == (CAMVID_CLASSES, CAMVID_PALETTE, 11)
    assert len(info.assumptions) == 1
    assert describe(model, info, classes=neutral_names(11)).classes == neutral_names(11)


@pytest.mark.parametrize("text", ["voc", "[1, 2, 3]", '["a", "b"]', "road, sky, tree", "[" * 100_000])
def test_metadata_that_does_not_name_the_classes_is_not_used_and_that_is_said(text, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tiny_state(), path, metadata={"variant": "fcn8s-lite", "classes": text})
    model, info = load_checkpoint(path)
    assert describe(model, info).classes == neutral_names(3)
    assert "'classes' in its metadata is not 3 names, and was not used" in info.assumptions


def test_new_names_for_our_own_file_bring_their_colours(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s-same", num_classes=21), tmp_path / "own.safetensors"
    save_safetensors(model, spec_for(model, palette=((7, 7, 7),) * 21), path)
    renamed = describe(*load_checkpoint(path), classes=VOC_CLASSES)
    assert renamed.palette == voc_palette(21)


def test_describe_takes_what_was_stated_before_defaults() -> None:
    model, info = random_model(2, "fcn8s-same", width=1, fc_channels=1)
    stated = {"classes": ("road", "rest"), "mean": (1.0, 2.0, 3.0), "std": (2.0, 2.0, 2.0)}
    spec = describe(model, info, **stated, color_order="rgb", ignore_label=None)
    assert (spec.classes, spec.mean, spec.std) == tuple(stated.values())
    assert (spec.color_order, spec.ignore_label) == ("rgb", 255)


def test_describe_gives_torchvisions_statistics_in_bgr(tmp_path: Path) -> None:
    path = saved(tmp_path / "vgg16.pth", vgg16_state(*vgg16()))
    spec = describe(*load_checkpoint(path, variant="fcn8s-same", num_classes=3))
    assert spec.mean == pytest.approx((103.53, 116.28, 123.675))
    assert spec.std == pytest.approx((57.375, 57.12, 58.395))
    assert spec.provenance[0]["kind"] == "torchvision"


def test_describe_keeps_the_chain_and_takes_new_names(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s-same", num_classes=2), tmp_path / "first.safetensors"
    original = {"kind": "checkpoint", "name": "mine.pth", "sha256": "0" * 64}
    spec = spec_for(model, palette=((1, 2, 3), (4, 5, 6)), provenance=(original,))
    save_safetensors(model, spec, path)
    loaded, info = load_checkpoint(path)

    kept = describe(loaded, info)
    assert [link["name"] for link in kept.provenance] == ["first.safetensors", "mine.pth"]
    assert kept.replace(provenance=(original,), reference=None) == spec
    assert kept.reference == Reference("fcn8s-same", "description", info.sha256)

    renamed = describe(loaded, info, classes=("road", "rest"))
    assert renamed.classes == ("road", "rest")
    assert renamed.palette != spec.palette, "colours go with the names"


def test_describe_wants_a_name_for_each_class() -> None:
    model, info = random_model(3, "fcn8s-same", width=1, fc_channels=1)
    with pytest.raises(ModelError, match="3 classes and 2 names"):
        describe(model, info, classes=("road", "rest"))


def test_a_network_in_memory_is_its_own_parent(make_model: MakeModel) -> None:
    model = make_model("fcn8s-lite")
    spec = describe(model, in_memory(model))
    assert spec.architecture == model.architecture
    assert spec.provenance == ({"kind": "module", "name": "fcn8s-lite in memory", "sha256": None},)
    assert (str(spec.reference), spec.reference.known_by) == ("fcn8s-lite", "module")


def test_info_links_to_its_file() -> None:
    info = CheckpointInfo("checkpoint", "a.pth", "f" * 64, "stated")
    assert info.link() == {"kind": "checkpoint", "name": "a.pth", "sha256": "f" * 64}
