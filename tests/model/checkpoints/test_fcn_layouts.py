"""FCN-8s under other implementations' names: recognised, told apart, prepared, and answering alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import MakeModel, State, saved, tiny_state
from fcn_files import NAMES, Lecture, lively, renamed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints import describe, load_checkpoint
from fcn_deploy.model.deploy import DeployModel, reference_logits
from fcn_deploy.model.fcn8s import FCN8s
from fcn_deploy.spec import CAFFE_MEAN_BGR

VARIANT = {"zijundeng": "fcn8s-atonce", "yassouali": "fcn8s-atonce", "meetshah1995": "fcn8s"}

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

YASSOUALI_VOC = ((0.45734706, 0.43338275, 0.40058118), (0.23965294, 0.23532275, 0.2398498))
YASSOUALI_CITYSCAPES = ((0.28689529, 0.32513294, 0.28389176), (0.17613647, 0.18099176, 0.17772235))

FORMS = ("plain", "blocks", "slices")


def renamed_file(folder: Path, implementation: str, classes: int = 3, **changes: Any) -> Path:
    state = renamed(tiny_state(classes=classes), implementation) | changes
    return saved(folder / f"{implementation}.pth", {k: v for k, v in state.items() if v is not None})


def frame_of(height: int, width: int) -> torch.Tensor:
    return 60 * torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))


def equal(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether they differ by less than a parity check allows."""
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


# Renamed FCN-8s


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("implementation", NAMES)
def test_a_renamed_network_answers_as_before(
    implementation: str, learned: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    original = make_model(VARIANT[implementation], learned_upscore=learned, seed=3)
    path = saved(tmp_path / "theirs.pth", renamed(original.state_dict(), implementation))

    model, info = load_checkpoint(path, trained_on="bgr")

    assert isinstance(model, FCN8s)
    assert model.architecture == original.architecture
    assert info.known_by == "keys"
    assert implementation in info.assumptions[0] and VARIANT[implementation] in info.assumptions[0]
    frame = frame_of(41, 53)
    with torch.inference_mode():
        assert equal(model(frame), original(frame))


@pytest.mark.parametrize(
    ("implementation", "classes", "order", "statistics"),
    [
        ("zijundeng", 21, "rgb", IMAGENET),
        ("zijundeng", 4, "rgb", IMAGENET),
        ("yassouali", 21, "rgb", YASSOUALI_VOC),
        (
            "yassouali",
            19,
            "rgb",
            ((0.28689529, 0.32513294, 0.28389176), (0.17613647, 0.18099176, 0.17772235)),
        ),
        ("yassouali", 5, "rgb", IMAGENET),
        ("meetshah1995", 21, "rgb", IMAGENET),
        ("meetshah1995", 19, "bgr", UNIT),
        ("meetshah1995", 65, "rgb", UNIT),
        ("meetshah1995", 12, "bgr", (tuple(v / 255 for v in CAFFE_MEAN_BGR[::-1]), (1.0, 1.0, 1.0))),
    ],
)
def test_frames_are_those_of_the_training_script(
    implementation: str, classes: int, order: str, statistics: tuple[Any, Any], tmp_path: Path
) -> None:
    state = tiny_state(classes=classes)
    model, info = load_checkpoint(saved(tmp_path / "theirs.pth", renamed(state, implementation)))
    mean_rgb, std_rgb = statistics
    assert info.mean == pytest.approx([255 * value for value in mean_rgb[::-1]])
    assert info.std == pytest.approx([255 * value for value in std_rgb[::-1]])
    assert info.trained_on == order
    first = state["conv1_1.weight"]
    assert torch.equal(model.state_dict()["conv1_1.weight"], first if order == "bgr" else first.flip(1))
    assert any(("R, G, B" if order == "rgb" else "B, G, R") in said for said in info.assumptions)
    spec = describe(model, info)
    assert (spec.mean, spec.std) == (info.mean, info.std)


def test_a_stated_channel_order_wins_and_what_the_layout_assumes_is_not_said(tmp_path: Path) -> None:
    path = renamed_file(tmp_path, "zijundeng")
    assumed, info = load_checkpoint(path)
    stated, stated_info = load_checkpoint(path, trained_on="bgr")
    weights = (model.state_dict()["conv1_1.weight"] for model in (assumed, stated))
    assert torch.equal(next(weights).flip(1), next(weights))
    assert any("R, G, B" in said for said in info.assumptions)
    assert not any("R, G, B" in said for said in stated_info.assumptions)


@pytest.mark.parametrize("implementation", NAMES)
def test_the_keys_tell_the_variant(implementation: str, tmp_path: Path) -> None:
    path, right = renamed_file(tmp_path, implementation), VARIANT[implementation]
    assert load_checkpoint(path, variant=right)[0].architecture.name == right
    for wrong in {"fcn8s", "fcn8s-atonce", "fcn8s-same", "fcn8s-lecture"} - {right}:
        with pytest.raises(ModelError, match=rf"{implementation}\.pth is {right} by its keys.*{wrong}"):
            load_checkpoint(path, variant=wrong)


@given(data=st.data(), implementation=st.sampled_from(sorted(NAMES)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_missing_key_is_named_in_one_sentence(
    data: st.DataObject, implementation: str, tmp_path: Path
) -> None:
    state = renamed(tiny_state(), implementation)
    key = data.draw(st.sampled_from(sorted(state)))
    del state[key]
    path = saved(tmp_path / "less.pth", state)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "less.pth" in message and "\n" not in message
    assert f"1 missing: {key}" in message


@pytest.mark.parametrize("implementation", NAMES)
def test_unknown_keys_are_named_by_their_own_names(implementation: str, tmp_path: Path) -> None:
    path = renamed_file(tmp_path, implementation, **{"decoder.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"does not fit .*1 unknown: decoder\.weight"):
        load_checkpoint(path)


def test_a_network_that_interpolates_instead_is_not_taken_for_one_with_upscores(tmp_path: Path) -> None:
    """meetshah1995's fcn8s has no upscores where learned_billinear is off; it is another network then."""
    missing = dict.fromkeys(("upscore2.weight", "upscore4.weight", "upscore8.weight"))
    path = renamed_file(tmp_path, "meetshah1995", **missing)
    with pytest.raises(ModelError, match=r"3 missing: upscore2\.weight, upscore4\.weight, upscore8\.weight"):
        load_checkpoint(path)


@pytest.mark.parametrize("implementation", NAMES)
@pytest.mark.parametrize("shape", [(2,), (2, 3, 3), (0, 3, 3, 3), (2, 4, 3, 3)], ids=str)
def test_weights_of_the_wrong_shape(implementation: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    key = NAMES[implementation][0].split()[0] + ".weight"
    path = renamed_file(tmp_path, implementation, **{key: torch.ones(shape)})
    with pytest.raises(ModelError, match=rf"{implementation}\.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize("implementation", NAMES)
def test_values_that_are_not_finite(implementation: str, tmp_path: Path) -> None:
    key = NAMES[implementation][1].split()[1] + ".bias"
    path = renamed_file(tmp_path, implementation, **{key: torch.tensor([1.0, math.nan])})
    with pytest.raises(ModelError, match="NaN"):
        load_checkpoint(path)


# The lecture's network


def lecture_file(folder: Path, original: Lecture, **changes: torch.Tensor) -> Path:
    return saved(folder / "lecture.pt", {**original.state_dict(), **changes})


@pytest.mark.parametrize("form", FORMS)
def test_the_lectures_network_answers_as_the_original(form: str, tmp_path: Path) -> None:
    original = lively(Lecture(form), seed=5)

    model, info = load_checkpoint(lecture_file(tmp_path, original))

    assert model.architecture.name == "fcn8s-lecture"
    assert (model.width, model.fc_channels, model.num_classes) == (2, 6, 4)
    assert (info.mean, info.std, info.trained_on) == ((0, 0, 0), (255, 255, 255), "rgb")
    spec = describe(model, info, color_order="rgb", outputs=("labels", "logits"))
    assert spec.size_multiple == 32
    rng = np.random.default_rng(0)
    for height, width in ((32, 64), (45, 97), (1, 1)):
        image = rng.integers(0, 256, (1, height, width, 3), np.uint8)  # R, G, B
        seen = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
        padded = torch.nn.functional.pad(seen, (0, -width % 32, 0, -height % 32))
        with torch.inference_mode():
            wanted = original(padded)[..., :height, :width]
            labels, logits = DeployModel(model, spec)(torch.from_numpy(image))
        assert wanted.std() > 0.01, "a constant answer would compare nothing"
        assert equal(torch.from_numpy(reference_logits(model, spec, image)), wanted)
        assert equal(logits, wanted)
        assert (labels == wanted.argmax(1)).float().mean() > 0.999


def test_early_copies_without_relu_have_the_same_keys_and_are_asked_for(tmp_path: Path) -> None:
    original = lively(Lecture("plain", relu=False), seed=6)
    path = lecture_file(tmp_path, original)
    assumed, info = load_checkpoint(path)
    stated, stated_info = load_checkpoint(path, variant="fcn8s-lecture-norelu")
    frame = frame_of(64, 32) / 60
    with torch.inference_mode():
        wanted = original(frame)
        assert equal(stated(frame.flip(1)), wanted)
        assert not equal(assumed(frame.flip(1)), wanted)
    assert any("--variant fcn8s-lecture-norelu" in said for said in info.assumptions)
    assert not any("--variant" in said for said in stated_info.assumptions)


@pytest.mark.parametrize("form", ["blocks", "slices"])
def test_forms_that_hold_their_relu_are_not_asked_about_it(form: str, tmp_path: Path) -> None:
    path = lecture_file(tmp_path, lively(Lecture(form), seed=7))
    _, info = load_checkpoint(path)
    assert not any("norelu" in said for said in info.assumptions)
    with pytest.raises(ModelError, match=r"is fcn8s-lecture by its keys.*fcn8s-lecture-norelu"):
        load_checkpoint(path, variant="fcn8s-lecture-norelu")


def test_the_unused_vgg16_inside_is_left_out_and_said(tmp_path: Path) -> None:
    original = lively(Lecture("slices"), seed=8)
    unused = [key for key in original.state_dict() if key.startswith("pretrained_model.")]
    _, info = load_checkpoint(lecture_file(tmp_path, original))
    assert any(f"{len(unused)} tensors of a VGG16 inside" in said for said in info.assumptions)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_keys_of_the_lecture_that_do_not_fit(form: str, change: str, tmp_path: Path) -> None:
    state: State = Lecture(form).state_dict()
    if change == "missing":
        del state["upscore8.bias"]
    else:
        state["aux.weight"] = torch.ones(1)
    key = "upscore8.bias" if change == "missing" else "aux.weight"
    with pytest.raises(ModelError, match=rf"lecture\.pt does not fit the lecture's FCN8s.*1 {change}: {key}"):
        load_checkpoint(saved(tmp_path / "lecture.pt", state))


def test_fc6_of_another_size_is_not_the_lectures(tmp_path: Path) -> None:
    path = lecture_file(tmp_path, Lecture("plain"), **{"fc6.weight": torch.ones(6, 16, 7, 7)})
    with pytest.raises(ModelError, match=r"fc6\.weight \[6, 16, 7, 7\] instead of \[6, 16, 1, 1\]"):
        load_checkpoint(path)


def test_other_networks_are_sent_to_their_own_code(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.pth", {"pretrained_net.features.0.weight": torch.ones(2, 3, 3, 3)})
    with pytest.raises(ModelError, match=r"other\.pth has no known layout.*pretrained_net.*--model"):
        load_checkpoint(path)
