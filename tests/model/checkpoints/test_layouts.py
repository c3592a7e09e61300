"""Known layouts: how they are recognised, and what each becomes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint_files import MakeModel, assert_holds, saved, spec_for, tiny_state, vgg16, vgg16_state
from torch import nn

from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import sha256_of
from fcn_deploy.model import bundled_path
from fcn_deploy.model.checkpoints import load_checkpoint, save_safetensors
from fcn_deploy.model.checkpoints.layouts import KNOWN_MD5
from fcn_deploy.model.fcn8s import VARIANTS
from fcn_deploy.spec import CAFFE_MEAN_BGR

PUBLIC_VARIANTS = tuple(name for name, variant in VARIANTS.items() if not variant.biased)
"""Those whose weights have the public keys."""

SHARED_MODEL = Path(__file__).resolve().parents[4] / "shared" / "models" / "fcn8s-vgg16-camvid.safetensors"


@pytest.mark.parametrize("variant", PUBLIC_VARIANTS)
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "model"])
def test_public_layouts_load_bare_and_wrapped(
    wrapper: str | None, prefix: str, variant: str, tmp_path: Path
) -> None:
    state = tiny_state(channels=2, fc=5, classes=4)
    content: Any = {prefix + key: value for key, value in state.items()}
    if wrapper is not None:
        content = {"epoch": 11, "arch": "FCN8s", wrapper: content, "best_mean_iu": 0.655}
    path = saved(tmp_path / "trained.pth", content)

    model, info = load_checkpoint(path, variant=variant)

    assert_holds(model, state)
    assert (model.variant.name, model.num_classes, model.width, model.fc_channels) == (variant, 4, 2, 5)
    assert not model.learned_upscore and not model.training
    assert (info.kind, info.name, info.sha256) == ("checkpoint", "trained.pth", sha256_of(path))
    assert (info.mean, info.std, info.spec) == (CAFFE_MEAN_BGR, (1.0, 1.0, 1.0), None)


def test_safetensors_with_a_variant_in_their_metadata(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in tiny_state(classes=11, fc=4).items()}
    path = tmp_path / "camvid.safetensors"
    metadata = {"variant": "fcn8s-same", "fc_channels": "4", "num_classes": "11"}
    safetensors.torch.save_file(state, path, metadata=metadata)

    model, info = load_checkpoint(path)

    assert_holds(model, state)
    assert (model.variant.name, model.num_classes, model.fc_channels) == ("fcn8s-same", 11, 4)
    assert info.kind == "safetensors" and info.spec is None
    assert any("fcn8s-same" in said and "metadata" in said for said in info.assumptions)


def test_safetensors_that_say_nothing_need_a_variant(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(tiny_state(), path)
    with pytest.raises(UsageError, match="variant"):
        load_checkpoint(path)
    assert load_checkpoint(path, variant="fcn8s-lite")[0].variant.name == "fcn8s-lite"


def test_rgb_checkpoint_is_turned_to_read_bgr(tmp_path: Path) -> None:
    state = tiny_state()
    path = saved(tmp_path / "rgb.pth", state)
    turned, _ = load_checkpoint(path, variant="fcn8s-same", trained_on="rgb")
    plain, _ = load_checkpoint(path, variant="fcn8s-same")
    frame = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(1)) * 100
    with torch.inference_mode():
        torch.testing.assert_close(turned(frame), plain(frame.flip(1)))
        assert not torch.allclose(turned(frame), plain(frame))
    with pytest.raises(UsageError, match="'grb'"):
        load_checkpoint(path, variant="fcn8s", trained_on="grb")


@pytest.mark.slow
@pytest.mark.camvid
def test_trained_weights_beside_the_repository_answer_as_the_second_implementation(reference: Any) -> None:
    if not SHARED_MODEL.is_file():
        pytest.skip("no trained weights beside the repository (shared/models)")
    model, _ = load_checkpoint(SHARED_MODEL)
    assert (model.variant.name, model.num_classes, model.fc_channels) == ("fcn8s-same", 11, 512)
    frame = np.random.default_rng(0).uniform(-120, 140, (3, 41, 67))
    wanted = reference.logits(frame, {k: v.numpy() for k, v in model.state_dict().items()}, "fcn8s-same")
    with torch.inference_mode():
        found = model(torch.from_numpy(frame[None]).float())[0].numpy()
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


# Variants: they leave no trace in the weights


def test_published_files_are_known_by_their_md5() -> None:
    assert KNOWN_MD5 == {
        "de93e540ec79512f8770033849c8ae89": "fcn8s",
        "bfed4437e941fef58932891217fe6464": "fcn8s-atonce",
    }


@pytest.mark.parametrize("published", ["fcn8s", "fcn8s-atonce"])
def test_a_known_md5_tells_the_variant(
    published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "weights.pth", tiny_state())
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(KNOWN_MD5, digest, published)

    model, info = load_checkpoint(path)
    assert model.variant.name == published
    assert published in info.assumptions[0] and "MD5" in info.assumptions[0]
    assert load_checkpoint(path, variant=published)[0].variant.name == published

    for other in set(VARIANTS) - {published}:
        with pytest.raises(ModelError, match=rf"weights\.pth is {published} by .*MD5.*{other}"):
            load_checkpoint(path, variant=other)


def test_an_unknown_checkpoint_needs_a_variant(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", tiny_state())
    with pytest.raises(UsageError, match=r"mine\.pth.*--variant") as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 2
    assert all(name in str(caught.value) for name in VARIANTS)
    with pytest.raises(ModelError, match="unknown variant 'fcn32s'"):
        load_checkpoint(path, variant="fcn32s")


@pytest.mark.parametrize("variant", PUBLIC_VARIANTS)
def test_what_was_assumed_of_the_variant_is_stated(variant: str, tmp_path: Path) -> None:
    _, info = load_checkpoint(saved(tmp_path / "mine.pth", tiny_state()), variant=variant)
    assert len(info.assumptions) == 1
    assert f"variant {variant}," in info.assumptions[0] and "as given" in info.assumptions[0]


@pytest.mark.parametrize("name", ["fcn8s-atonce_from_caffe.pth", "FCN8s_at_once.pt", "atonce.bin"])
def test_a_name_that_says_at_once_is_not_loaded_as_another_variant(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / name, tiny_state())
    for variant in ("fcn8s", "fcn8s-same", "fcn8s-lite"):
        with pytest.raises(ModelError, match=f"at-once.*{variant}"):
            load_checkpoint(path, variant=variant)
    assert load_checkpoint(path, variant="fcn8s-atonce")[0].variant.pool4_scale == 0.01


def test_metadata_and_a_given_variant_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tiny_state(), path, metadata={"variant": "fcn8s-same"})
    with pytest.raises(ModelError, match=r"a\.safetensors is fcn8s-same.*fcn8s-atonce"):
        load_checkpoint(path, variant="fcn8s-atonce")


def test_metadata_with_an_unknown_variant_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    safetensors.torch.save_file(tiny_state(), path, metadata={"variant": "fcn4s"})
    with pytest.raises(ModelError, match=r"b\.safetensors.*fcn4s"):
        load_checkpoint(path)


def test_a_description_and_a_given_variant_must_agree(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s-same"), tmp_path / "ours.safetensors"
    save_safetensors(model, spec_for(model), path)
    with pytest.raises(ModelError, match=r"ours\.safetensors is fcn8s-same.*fcn8s-lite"):
        load_checkpoint(path, variant="fcn8s-lite")


# torchvision's VGG16


def test_the_small_vgg16_has_torchvisions_keys() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        real = torchvision.models.vgg16()
    assert list(vgg16_state(*vgg16())) == list(real.state_dict())
    assert [type(a) for a in real.features] == [type(a) for a in vgg16()[0]]


def test_torchvisions_classifier_becomes_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(3)
    features, classifier = vgg16()
    for part in (features, classifier):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.1 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5)
    path = saved(tmp_path / "vgg16-397923af.pth", vgg16_state(features, classifier))

    model, info = load_checkpoint(path, variant="fcn8s-same", num_classes=4)

    assert (model.width, model.fc_channels, model.num_classes, model.training) == (2, 6, 4, False)
    assert info.kind == "torchvision" and "untrained" in info.note
    assert info.sha256 == sha256_of(path)

    frame = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)  # R, G, B
    rgb = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        seen = features(((rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1))[None])
        wanted = classifier[:5](seen.flatten(1))[0]
        bgr = (frame[..., ::-1].astype(np.float32) - np.float32(info.mean)) / np.float32(info.std)
        _, _, fc7 = model.trunk(torch.from_numpy(bgr.transpose(2, 0, 1)[None].copy()))
    assert fc7.shape == (1, 6, 7, 7)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(fc7[0, :, 3, 3], wanted, rtol=1e-3, atol=1e-4)


def test_torchvisions_score_layers_are_seeded_and_not_zero(tmp_path: Path) -> None:
    path = saved(tmp_path / "vgg16.pth", vgg16_state(*vgg16()))
    first, second = (load_checkpoint(path, variant="fcn8s", num_classes=3)[0] for _ in range(2))
    for layer in (first.score_fr, first.score_pool3, first.score_pool4):
        assert layer.weight.abs().min() > 0
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("options", [{}, {"variant": "fcn8s"}, {"num_classes": 21}], ids=str)
def test_torchvisions_classifier_needs_variant_and_classes(options: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "vgg16.pth", vgg16_state(*vgg16()))
    with pytest.raises(UsageError, match=r"vgg16\.pth.*--num-classes and --variant"):
        load_checkpoint(path, **options)


@pytest.mark.parametrize("missing", ["classifier.0.weight", "features.28.bias", "features.12.weight"])
def test_torchvision_files_with_keys_missing(missing: str, tmp_path: Path) -> None:
    state = vgg16_state(*vgg16())
    del state[missing]
    with pytest.raises(ModelError, match=rf"vgg16\.pth.*1 missing: {missing}"):
        load_checkpoint(saved(tmp_path / "vgg16.pth", state), variant="fcn8s", num_classes=3)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("classifier.0.weight", (6, 50)),
        ("classifier.0.weight", (6, 49)),
        ("classifier.3.weight", (6, 5)),
        ("classifier.3.bias", (7,)),
        ("features.0.weight", (2,)),
        ("features.0.bias", ()),
        ("classifier.0.weight", (0, 49)),
        ("features.10.weight", (8, 5, 3, 3)),
    ],
    ids=str,
)
def test_torchvision_files_with_weights_of_the_wrong_shape(
    key: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    state = {**vgg16_state(*vgg16()), key: torch.ones(shape)}
    with pytest.raises(ModelError, match=r"vgg16\.pth"):
        load_checkpoint(saved(tmp_path / "vgg16.pth", state), variant="fcn8s", num_classes=3)


def test_vgg16_with_batch_normalisation_is_named_as_such(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        real = torchvision.models.vgg16_bn().state_dict()
    state = {key: torch.ones((1,) * value.ndim, dtype=value.dtype) for key, value in real.items()}
    with pytest.raises(ModelError, match=r"vgg16_bn\.pth does not fit torchvision's VGG16 \(without"):
        load_checkpoint(saved(tmp_path / "vgg16_bn.pth", state), variant="fcn8s", num_classes=3)


def test_torchvision_networks_trained_on_bgr_are_turned_to_read_rgb(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(2)
    original = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    path = saved(tmp_path / "lraspp.pth", original.state_dict())
    plain, info = load_checkpoint(path)
    turned, turned_info = load_checkpoint(path, trained_on="bgr")
    frame = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = original(frame)["out"]
        torch.testing.assert_close(plain(frame), wanted)
        torch.testing.assert_close(turned(frame.flip(1)), wanted)
        assert not torch.allclose(turned(frame), wanted)
    assert (info.trained_on, turned_info.trained_on) == ("rgb", "bgr")
    assert any("R, G, B" in said for said in info.assumptions)
    assert not any("R, G, B" in said for said in turned_info.assumptions)


def test_bundled_weights_load_and_say_what_they_are() -> None:
    model, info = load_checkpoint("bundled")
    assert (model.variant.name, info.name) == ("fcn8s-lite", "bundled")
    assert info.sha256 == sha256_of(bundled_path())
    assert info.note, "their limits are shown wherever they are named"
