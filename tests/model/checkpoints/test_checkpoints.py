"""Checkpoints of every known layout, and everything that a file may be instead."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcn_deploy.classes import CAMVID_CLASSES
from fcn_deploy.errors import FcnDeployError, ModelError, UsageError
from fcn_deploy.files import sha256_of
from fcn_deploy.model.checkpoints import layouts as weights
from fcn_deploy.model.checkpoints.describe import CheckpointInfo, describe
from fcn_deploy.model.checkpoints.layouts import load_checkpoint
from fcn_deploy.model.checkpoints.native import bundled_path, load_safetensors, save_safetensors
from fcn_deploy.model.checkpoints.random import random_model
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s
from fcn_deploy.spec import CAFFE_MEAN_BGR, METADATA_KEY, ModelSpec

State = dict[str, Tensor]
MakeModel = Callable[..., FCN8s]

KEYS = tuple(FCN8s(2, width=1, fc_channels=1).state_dict())
UPSCORES = ("upscore2.weight", "upscore_pool4.weight", "upscore8.weight")
SIZING = ("conv1_1.weight", "fc6.weight", "score_fr.weight")
"""The channels of a network are read off these."""

SHARED_MODEL = Path(__file__).resolve().parents[4] / "shared" / "models" / "fcn8s-vgg16-camvid.safetensors"


def tiny_state(seed: int = 0, classes: int = 3, channels: int = 1, fc: int = 2) -> State:
    """A state_dict with the public keys, made without the code that loads it."""
    generator = torch.Generator().manual_seed(seed)
    model = FCN8s(classes, width=channels, fc_channels=fc)
    return {
        key: value.clone() if key in UPSCORES else torch.randn(value.shape, generator=generator)
        for key, value in model.state_dict().items()
    }


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def assert_holds(model: FCN8s, state: State) -> None:
    found = model.state_dict()
    assert set(found) == set(state)
    for key, value in state.items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value.float()), key


def spec_for(model: FCN8s, **changes: Any) -> ModelSpec:
    fields = {
        "classes": tuple(f"class {i}" for i in range(model.num_classes)),
        "variant": model.variant.name,
        "width": model.width,
        "fc_channels": model.fc_channels,
        "learned_upscore": model.learned_upscore,
    }
    return ModelSpec(**{**fields, **changes})


# Layouts


@pytest.mark.parametrize("variant", VARIANTS)
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in tiny_state().items()}
    model, _ = load_checkpoint(saved(tmp_path / "half.pt", state), variant="fcn8s")
    assert_holds(model, state)


def test_old_pickle_format_of_torch_loads(tmp_path: Path) -> None:
    state = tiny_state()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model, _ = load_checkpoint(tmp_path / "old.pth", variant="fcn8s")
    assert_holds(model, state)


def test_safetensors_with_a_variant_in_their_metadata(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in tiny_state(classes=11, fc=4).items()}
    path = tmp_path / "camvid.safetensors"
    metadata = {"variant": "fcn8s-same", "fc_channels": "4", "num_classes": "11"}
    safetensors.torch.save_file(state, path, metadata=metadata)

    model, info = load_checkpoint(path)

    assert_holds(model, state)
    assert (model.variant.name, model.num_classes, model.fc_channels) == ("fcn8s-same", 11, 4)
    assert info.kind == "safetensors" and info.spec is None
    assert "fcn8s-same" in info.assumptions[0] and "metadata" in info.assumptions[0]


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
    model, info = load_checkpoint(SHARED_MODEL)
    assert (model.variant.name, model.num_classes, model.fc_channels) == ("fcn8s-same", 11, 512)
    assert describe(model, info).classes == CAMVID_CLASSES
    frame = np.random.default_rng(0).uniform(-120, 140, (3, 41, 67))
    wanted = reference.logits(frame, {k: v.numpy() for k, v in model.state_dict().items()}, "fcn8s-same")
    with torch.inference_mode():
        found = model(torch.from_numpy(frame[None]).float())[0].numpy()
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


# Variants: they leave no trace in the weights


def test_published_files_are_known_by_their_md5() -> None:
    assert weights.KNOWN_MD5 == {
        "de93e540ec79512f8770033849c8ae89": "fcn8s",
        "bfed4437e941fef58932891217fe6464": "fcn8s-atonce",
    }


@pytest.mark.parametrize("published", ["fcn8s", "fcn8s-atonce"])
def test_a_known_md5_tells_the_variant(
    published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "weights.pth", tiny_state())
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(weights.KNOWN_MD5, digest, published)

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


@pytest.mark.parametrize("variant", VARIANTS)
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


# Keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def refusal(folder: Path, state: State, **options: Any) -> str:
    path = saved(folder / "c.pth", state)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, variant="fcn8s", **options)
    message = str(caught.value)
    assert "c.pth" in message and "\n" not in message
    return message


@given(dropped=st.sets(st.sampled_from(sorted(set(KEYS) - set(UPSCORES))), min_size=1))
@settings(max_examples=20)
def test_missing_keys_are_counted_and_the_first_are_named(dropped: set[str], folder: Path) -> None:
    state = {key: value for key, value in tiny_state().items() if key not in dropped}
    message = refusal(folder, state)
    in_order = [key for key in KEYS if key in dropped]
    assert f"{len(dropped)} missing: {', '.join(in_order[:4])}" in message
    assert "unknown" not in message
    assert "misshapen" not in message, "a key that is there is not to blame"
    assert message.endswith(", ...") == (len(dropped) > 4)


@given(names=st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=8))
@settings(max_examples=20)
def test_unknown_keys_are_counted_and_the_first_are_named(names: set[str], folder: Path) -> None:
    strange = sorted(f"{name}.weight" for name in names)
    message = refusal(folder, {**tiny_state(), **{key: torch.ones(1) for key in strange}})
    assert f"{len(strange)} unknown: {', '.join(strange[:4])}" in message
    assert "missing" not in message and "misshapen" not in message


@given(key=st.sampled_from(sorted(set(KEYS) - set(SIZING))), axis=st.integers(0, 3), more=st.integers(1, 3))
@settings(max_examples=20)
def test_misshapen_keys_are_named_with_both_shapes(key: str, axis: int, more: int, folder: Path) -> None:
    state = tiny_state()
    sound = list(state[key].shape)
    bent = [size + more if i == axis % len(sound) else size for i, size in enumerate(sound)]
    message = refusal(folder, {**state, key: torch.ones(bent)})
    assert f"1 misshapen: {key} {bent} instead of {sound}" in message
    assert "missing" not in message and "unknown" not in message


@pytest.mark.parametrize("key", SIZING)
@pytest.mark.parametrize("shape", [(), (7,), (2, 2), (9, 1, 1, 1), (0, 3, 3, 3)], ids=str)
def test_keys_that_give_the_size_may_be_misshapen_too(key: str, shape: tuple[int, ...], folder: Path) -> None:
    with pytest.raises(ModelError, match=r"c\.pth"):
        load_checkpoint(
            saved(folder / "c.pth", {**tiny_state(), key: torch.ones(shape)}), variant="fcn8s-same"
        )


def test_all_three_kinds_stand_in_one_message(folder: Path) -> None:
    state = tiny_state()
    state["classifier.weight"] = torch.ones(1)
    del state["conv3_3.bias"]
    state["fc7.weight"] = torch.ones(5, 2, 1, 1)
    message = refusal(folder, state)
    assert "1 unknown: classifier.weight" in message
    assert "1 missing: conv3_3.bias" in message
    assert "1 misshapen: fc7.weight [5, 2, 1, 1] instead of [2, 2, 1, 1]" in message


def test_another_network_is_refused_in_one_sentence(folder: Path) -> None:
    message = refusal(folder, nn.Linear(3, 2).state_dict())
    assert "2 unknown: weight, bias" in message and "missing: conv1_1.weight" in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_of_a_run_that_diverged_are_refused(value: float, folder: Path) -> None:
    state = tiny_state()
    state["conv4_2.weight"][0, 0, 1, 2] = value
    assert "conv4_2.weight" in refusal(folder, state)


def test_integer_weights_are_refused(folder: Path) -> None:
    state = tiny_state()
    state["fc7.bias"] = torch.ones(2, dtype=torch.int64)
    assert "fc7.bias" in refusal(folder, state)


def test_class_count_must_be_the_one_asked_for(folder: Path) -> None:
    message = refusal(folder, tiny_state(classes=3), num_classes=21)
    assert "3 classes" in message and "21" in message
    path = saved(folder / "d.pth", tiny_state(classes=3))
    assert load_checkpoint(path, variant="fcn8s", num_classes=3)[0].num_classes == 3


@pytest.mark.parametrize("classes", [1, 256])
def test_class_counts_that_labels_cannot_hold_are_refused(classes: int, folder: Path) -> None:
    state = tiny_state()
    for layer in ("score_fr", "score_pool3", "score_pool4"):
        state[f"{layer}.weight"] = torch.ones(classes, *state[f"{layer}.weight"].shape[1:])
        state[f"{layer}.bias"] = torch.ones(classes)
    for key in UPSCORES:
        del state[key]
    assert re.search(f"2 to 255.*{classes}", refusal(folder, state))


# Upscores


def test_missing_upscores_are_the_papers_bilinear_ones(folder: Path) -> None:
    state = tiny_state()
    bare = {key: value for key, value in state.items() if key not in UPSCORES}
    model, _ = load_checkpoint(saved(folder / "e.pth", bare), variant="fcn8s")
    assert_holds(model, state)
    assert not model.learned_upscore


@pytest.mark.parametrize("key", UPSCORES)
def test_upscores_that_are_not_bilinear_are_learned(key: str, folder: Path) -> None:
    state = tiny_state()
    state[key][0, 1, 2, 3] += 0.01
    path = saved(folder / "f.pth", state)
    for stated in (None, True):
        model, _ = load_checkpoint(path, variant="fcn8s", learned_upscore=stated)
        assert model.learned_upscore
        assert_holds(model, state)
    with pytest.raises(ModelError, match=r"f\.pth.*learned"):
        load_checkpoint(path, variant="fcn8s", learned_upscore=False)


def test_bilinear_upscores_are_free_on_request(folder: Path) -> None:
    path = saved(folder / "g.pth", tiny_state())
    assert load_checkpoint(path, variant="fcn8s", learned_upscore=True)[0].learned_upscore
    assert not load_checkpoint(path, variant="fcn8s", learned_upscore=False)[0].learned_upscore


# Files that are something else


def truncated(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_files_are_incomplete(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(tiny_state(), path)
    else:
        safetensors.torch.save_file(tiny_state(), path)
    with pytest.raises(ModelError, match=rf"cut{re.escape(suffix)} is not a complete.*copy it again"):
        load_checkpoint(truncated(path, share), variant="fcn8s")


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_old_pickles_are_incomplete(share: float, tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "cut.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"cut\.pth is not a complete.*copy it again"):
        load_checkpoint(truncated(tmp_path / "cut.pth", share), variant="fcn8s")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "data",
    [b"<!DOCTYPE html><html><body>404</body></html>", b"\0" * 1000, b"hello", bytes(range(256)) * 4],
    ids=["a web page", "zeros", "text", "noise"],
)
def test_files_that_are_no_checkpoint_at_all(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"wrong{re.escape(suffix)} is not a complete"):
        load_checkpoint(path, variant="fcn8s")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_zero_bytes_missing_files_and_folders_are_wrong_use(suffix: str, tmp_path: Path) -> None:
    empty, folder = tmp_path / f"empty{suffix}", tmp_path / f"folder{suffix}"
    empty.touch()
    folder.mkdir()
    cases = ((empty, "empty"), (folder, "folder"), (tmp_path / f"none{suffix}", "does not exist"))
    for path, reason in cases:
        for load in (load_safetensors, lambda p: load_checkpoint(p, variant="fcn8s")):
            with pytest.raises(UsageError, match=rf"{re.escape(path.name)}.*{reason}"):
                load(path)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.zip", tiny_state())
    with pytest.raises(UsageError, match=r"model\.zip.*\.safetensors, \.pth"):
        load_checkpoint(path, variant="fcn8s")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2, 3], "a list"),
        (torch.ones(3), "a Tensor"),
        ({}, "(none)"),
        ({"epoch": 3, "optimizer": {}}, "epoch, optimizer"),
        ({"model_state_dict": {}}, "(none)"),
        ({0: torch.ones(2)}, "0"),
    ],
    ids=["list", "tensor", "nothing", "no weights", "empty state_dict", "numbers for names"],
)
def test_what_holds_no_state_dict_says_what_it_holds(content: Any, found: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.pth", content)
    with pytest.raises(ModelError, match=rf"odd\.pth does not hold a state_dict.*{re.escape(found)}"):
        load_checkpoint(path, variant="fcn8s")


class Trap:
    """Unpickled, it creates a file: what a hostile checkpoint does with less kindness."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", ["beside", "inside", "alone", "raw protocol 2", "raw protocol 4"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(place: str, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "hostile.pth"
    trap = Trap(sprung)
    if place.startswith("raw"):
        path.write_bytes(pickle.dumps(trap, protocol=int(place[-1])))
    else:
        content = {
            "beside": {"model_state_dict": tiny_state(), "config": trap},
            "inside": {**tiny_state(), "conv1_1.weight": trap},
            "alone": trap,
        }[place]
        torch.save(content, path)

    with pytest.raises(ModelError, match=r"hostile\.pth .*not loaded.*run any code"):
        load_checkpoint(path, variant="fcn8s")
    assert not sprung.exists()

    pickle.loads(pickle.dumps(trap))
    assert sprung.exists(), "the trap works where nobody looks"


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "module.pth", nn.Conv2d(1, 1, 1))
    with pytest.raises(ModelError, match=r"module\.pth .*state_dict"):
        load_checkpoint(path, variant="fcn8s")


# torchvision's VGG16


def vgg16(width: int = 2, fc: int = 6, classes: int = 10) -> tuple[nn.Sequential, nn.Sequential]:
    """torchvision's VGG16 with fewer channels: its features and its classifier."""
    layers: list[nn.Module] = []
    channels = 3
    for multiple, count in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, multiple * width, 3, padding=1), nn.ReLU()]
            channels = multiple * width
        layers.append(nn.MaxPool2d(2, 2))
    classifier = [
        *(nn.Linear(channels * 49, fc), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(fc, fc), nn.ReLU(), nn.Dropout(), nn.Linear(fc, classes)),
    ]
    return nn.Sequential(*layers).eval(), nn.Sequential(*classifier).eval()


def vgg16_state(features: nn.Sequential, classifier: nn.Sequential) -> State:
    parts = (("features", features), ("classifier", classifier))
    return {f"{name}.{key}": value for name, part in parts for key, value in part.state_dict().items()}


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
        ("features.10.weight", (8, 5, 3, 3)),
    ],
    ids=str,
)
def test_torchvision_files_with_misshapen_weights(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = {**vgg16_state(*vgg16()), key: torch.ones(shape)}
    with pytest.raises(ModelError, match=r"vgg16\.pth"):
        load_checkpoint(saved(tmp_path / "vgg16.pth", state), variant="fcn8s", num_classes=3)


def test_vgg16_with_batch_normalisation_is_named_as_such(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        real = torchvision.models.vgg16_bn().state_dict()
    state = {key: torch.ones((1,) * value.ndim, dtype=value.dtype) for key, value in real.items()}
    with pytest.raises(ModelError, match=r"vgg16_bn\.pth is not torchvision's VGG16 \(without batch norm"):
        load_checkpoint(saved(tmp_path / "vgg16_bn.pth", state), variant="fcn8s", num_classes=3)


# Our own safetensors


@pytest.mark.parametrize("learned_upscore", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_round_trip(
    dtype: str, variant: str, learned_upscore: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    model, path = make_model(variant, learned_upscore=learned_upscore), tmp_path / "ours.safetensors"
    spec = spec_for(model, color_order="rgb", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), note="tiny")
    save_safetensors(model, spec, path, dtype=dtype)

    wanted = {k: v.half() if dtype == "fp16" else v for k, v in model.state_dict().items()}
    loaded, found = load_safetensors(path)
    assert found == spec
    assert_holds(loaded, wanted)
    assert loaded.variant == model.variant and loaded.learned_upscore == learned_upscore
    assert not loaded.training

    again, info = load_checkpoint(path)
    assert_holds(again, wanted)
    assert (info.kind, info.spec, info.mean, info.std) == ("safetensors", spec, spec.mean, spec.std)
    assert again.learned_upscore == learned_upscore
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
    assert describe(loaded, info).learned_upscore


def test_a_description_follows_what_was_asked_of_the_upscores(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model("fcn8s-same"), tmp_path / "fixed.safetensors"
    save_safetensors(model, spec_for(model), path)
    freed, info = load_checkpoint(path, learned_upscore=True)
    assert freed.learned_upscore
    assert describe(freed, info).learned_upscore


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


def test_bundled_weights_load_and_say_what_they_are() -> None:
    model, info = load_checkpoint("bundled")
    assert (model.variant.name, info.name) == ("fcn8s-lite", "bundled")
    assert info.sha256 == sha256_of(bundled_path())
    assert info.note, "their limits are shown wherever they are named"


# Random weights


@pytest.mark.parametrize("learned_upscore", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_models_are_seeded_and_have_something_to_disagree_about(
    variant: str, learned_upscore: bool
) -> None:
    def make(seed: int) -> State:
        model, info = random_model(
            4, variant, width=2, fc_channels=8, learned_upscore=learned_upscore, seed=seed
        )
        assert info.kind == "random" and str(seed) in info.name and info.sha256 is None and info.note
        assert not model.training and model.learned_upscore == learned_upscore
        frame = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 255 - 120
        with torch.inference_mode():
            logits = model(frame)
        assert torch.isfinite(logits).all() and logits.std() > 0.1
        return model.state_dict()

    one, same, other = make(1), make(1), make(2)
    for key, value in one.items():
        fixed = key in UPSCORES and not learned_upscore
        assert torch.equal(value, same[key])
        assert torch.equal(value, other[key]) == fixed, key
        assert fixed or value.abs().max() > 0


def test_random_weights_are_he_normal() -> None:
    model, _ = random_model(21, "fcn8s-same", width=16, fc_channels=256)
    for layer in (model.conv2_2, model.conv5_1, model.fc6, model.score_fr):
        assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)


# Descriptions


def test_describe_states_what_the_weights_tell(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", tiny_state(classes=21, channels=2, fc=3))
    spec = describe(*load_checkpoint(path, variant="fcn8s-atonce"))
    assert (spec.variant, spec.width, spec.fc_channels, spec.num_classes) == ("fcn8s-atonce", 2, 3, 21)
    assert spec.classes[0] == "background" and spec.ignore_label == 255
    assert spec.mean == CAFFE_MEAN_BGR and spec.std == (1.0, 1.0, 1.0) and spec.color_order == "bgr"
    assert spec.provenance == ({"kind": "checkpoint", "name": "mine.pth", "sha256": sha256_of(path)},)


def test_describe_knows_camvid_by_its_eleven_classes() -> None:
    spec = describe(*random_model(11, "fcn8s-lite", width=1, fc_channels=1))
    assert spec.classes == CAMVID_CLASSES and spec.ignore_label == 11 and "random" in spec.note


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
    assert kept.replace(provenance=(original,)) == spec

    renamed = describe(loaded, info, classes=("road", "rest"))
    assert renamed.classes == ("road", "rest")
    assert renamed.palette != spec.palette, "colours go with the names"


def test_describe_wants_a_name_for_each_class() -> None:
    model, info = random_model(3, "fcn8s-same", width=1, fc_channels=1)
    with pytest.raises(ModelError, match="3 classes and 2 names"):
        describe(model, info, classes=("road", "rest"))


ODD: dict[str, Any] = {
    "nothing": None,
    "wrapped twice": {"model": {"model_state_dict": tiny_state()}},
    "names that are bytes": {b"conv1_1.weight": torch.ones(1)},
    "a number among the tensors": {**tiny_state(), "epoch": 3},
    "complex weights": {**tiny_state(), "fc7.bias": torch.ones(2, dtype=torch.complex64)},
    "booleans": {**tiny_state(), "fc7.bias": torch.ones(2, dtype=torch.bool)},
}


@pytest.mark.parametrize("what", ODD)
def test_odd_content_is_refused_by_name(what: str, tmp_path: Path) -> None:
    with pytest.raises(FcnDeployError, match=r"odd\.pth"):
        load_checkpoint(saved(tmp_path / "odd.pth", ODD[what]), variant="fcn8s")


def test_info_links_to_its_file() -> None:
    info = CheckpointInfo("checkpoint", "a.pth", "f" * 64)
    assert info.link() == {"kind": "checkpoint", "name": "a.pth", "sha256": "f" * 64}
