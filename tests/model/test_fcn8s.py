"""FCN8s against a second implementation, against the paper's numbers, and against planted bugs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.errors import ModelError
from fcn_deploy.model.fcn8s import VARIANTS, FCN8s, Upscore, bilinear_kernel, find_variant

EXACT = 1e-9
"""Largest difference in float64, as a share of the largest logit."""

SIZES = ((1, 1), (1, 33), (33, 1), (31, 33), (32, 64), (96, 32), (65, 97), (97, 131))

# The layers of the public Berkeley weights.
SHAPES = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3),
    "conv3_2": (256, 256, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3),
    "conv4_2": (512, 512, 3, 3),
    "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3),
    "conv5_2": (512, 512, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "fc6": (4096, 512, 7, 7),
    "fc7": (4096, 4096, 1, 1),
    "score_fr": (21, 4096, 1, 1),
    "score_pool3": (21, 256, 1, 1),
    "score_pool4": (21, 512, 1, 1),
}
UPSCORE_SHAPES = {
    "upscore2.weight": (21, 21, 4, 4),
    "upscore_pool4.weight": (21, 21, 4, 4),
    "upscore8.weight": (21, 21, 16, 16),
}


def frame_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A normalised frame float64 [3, H, W]: what a 0..255 frame is once the mean is gone."""
    return np.random.default_rng((seed, height, width)).uniform(-123, 151, (3, height, width))


def answer(model: FCN8s, frame: np.ndarray) -> np.ndarray:
    return answers(model.double(), frame[None])[0]


def answers(model: FCN8s, frames: np.ndarray) -> np.ndarray:
    """Logits at the size of the frames [N, 3, H, W], which are padded with zeros to what is taken."""
    height, width = frames.shape[2:]
    below, right = (-length % model.size_multiple for length in (height, width))
    padded = np.pad(frames, ((0, 0), (0, 0), (0, below), (0, right)))
    with torch.inference_mode():
        return model(torch.from_numpy(padded))[..., :height, :width].numpy()


def expected(reference: ModuleType, model: FCN8s, frame: np.ndarray) -> np.ndarray:
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    return reference.logits(frame, weights, model.variant.name, learned_upscore=model.learned_upscore)


def equal(found: np.ndarray, wanted: np.ndarray, tolerance: float = EXACT) -> bool:
    """Whether two answers have one shape and differ by less than ``tolerance`` of the largest."""
    return found.shape == wanted.shape and bool(
        np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    )


@pytest.mark.parametrize("learned_upscore", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_second_implementation(
    variant: str, learned_upscore: bool, make_model: Callable[..., FCN8s], reference: ModuleType
) -> None:
    model = make_model(variant, learned_upscore=learned_upscore)
    for height, width in SIZES:
        frame = frame_of(height, width)
        wanted = expected(reference, model, frame)
        assert wanted.shape == (5, height, width)
        assert np.ptp(wanted) > 0.1, "a constant answer would compare nothing"
        assert equal(answer(model, frame), wanted), f"{height}x{width}"


@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    learned_upscore=st.booleans(),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.integers(1, 4),
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_equals_the_second_implementation_at_any_size(
    variant: str,
    learned_upscore: bool,
    height: int,
    width: int,
    channels: int,
    num_classes: int,
    seed: int,
    make_model: Callable[..., FCN8s],
    reference: ModuleType,
) -> None:
    model = make_model(
        variant, num_classes=num_classes, width=channels, learned_upscore=learned_upscore, seed=seed
    )
    frame = frame_of(height, width, seed)
    wanted = expected(reference, model, frame)
    assert wanted.shape == (num_classes, height, width)
    assert equal(answer(model, frame), wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_stays_within_the_tolerance_of_a_parity_check(
    variant: str, make_model: Callable[..., FCN8s], reference: ModuleType
) -> None:
    model = make_model(variant, width=4)
    frame = frame_of(45, 67)
    found = answers(model, frame[None].astype(np.float32))[0]
    assert found.dtype == np.float32
    assert equal(found, expected(reference, model, frame.astype(np.float32)), 1e-5)


def mutate_variant(**changes: Any) -> Callable[[FCN8s], None]:
    def mutate(model: FCN8s) -> None:
        model.variant = replace(model.variant, **changes)

    return mutate


def set_ceil_mode(model: FCN8s) -> None:
    model.pool.ceil_mode = False


def set_padding(layer: str, padding: int) -> Callable[[FCN8s], None]:
    def mutate(model: FCN8s) -> None:
        model.get_submodule(layer).padding = (padding, padding)

    return mutate


def swap_upscore_axes(model: FCN8s) -> None:
    """Read [out, in] where [in, out] stands; 21x21 hides it from every shape check."""
    for upscore in (model.upscore2, model.upscore_pool4, model.upscore8):
        upscore.weight.data = upscore.weight.data.transpose(0, 1).contiguous()


def upscore_by_kernel(model: FCN8s) -> None:
    """Transposed convolutions where edges are replicated: equal but near the border."""
    for upscore in (model.upscore2, model.upscore_pool4, model.upscore8):
        upscore.resize = False


def drop_biases(model: FCN8s) -> None:
    for upscore in (model.upscore2, model.upscore_pool4, model.upscore8):
        upscore.bias = None


PLANTED = {
    "pooling rounds down": ("fcn8s", set_ceil_mode),
    "crops 4/9/31": ("fcn8s", mutate_variant(crops=(4, 9, 31))),
    "crops 5/8/31": ("fcn8s", mutate_variant(crops=(5, 8, 31))),
    "crops 5/9/30": ("fcn8s", mutate_variant(crops=(5, 9, 30))),
    "padding 99": ("fcn8s", set_padding("conv1_1", 99)),
    "padding 101": ("fcn8s", set_padding("conv1_1", 101)),
    "at-once scales in the plain network": ("fcn8s", mutate_variant(pool4_scale=0.01, pool3_scale=0.0001)),
    "pooling rounds down, at-once": ("fcn8s-atonce", set_ceil_mode),
    "no scale on pool4": ("fcn8s-atonce", mutate_variant(pool4_scale=1.0)),
    "no scale on pool3": ("fcn8s-atonce", mutate_variant(pool3_scale=1.0)),
    "pool3 scaled by 0.001": ("fcn8s-atonce", mutate_variant(pool3_scale=0.001)),
    "scales swapped": ("fcn8s-atonce", mutate_variant(pool4_scale=0.0001, pool3_scale=0.01)),
    "same: pooling rounds down": ("fcn8s-same", set_ceil_mode),
    "same: crop of pool4 at 1": ("fcn8s-same", mutate_variant(crops=(1, 0, 0))),
    "same: crop of pool3 at 1": ("fcn8s-same", mutate_variant(crops=(0, 1, 0))),
    "same: final crop at 1": ("fcn8s-same", mutate_variant(crops=(0, 0, 1))),
    "same: fc6 reaches further": ("fcn8s-same", set_padding("fc6", 4)),
    "same: padding 2": ("fcn8s-same", set_padding("conv1_1", 2)),
    "same: zeros beyond the edge": ("fcn8s-same", upscore_by_kernel),
    "lite: pooling rounds down": ("fcn8s-lite", set_ceil_mode),
    "lecture: no ReLU after fc6 and fc7": ("fcn8s-lecture", mutate_variant(fc_relu=False)),
    "lecture: upscores without a bias": ("fcn8s-lecture", drop_biases),
    "early lecture: ReLU after fc6 and fc7": ("fcn8s-lecture-norelu", mutate_variant(fc_relu=True)),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_comparison_sees_a_planted_bug(
    planted: str, make_model: Callable[..., FCN8s], reference: ModuleType
) -> None:
    variant, mutate = PLANTED[planted]
    model, frame = make_model(variant, seed=7), frame_of(39, 43)
    wanted = expected(reference, model, frame)
    assert equal(answer(model, frame), wanted), "sound before the bug is planted"
    mutate(model)
    try:
        found = answer(model, frame)
    except RuntimeError as exc:  # in the same family a lost row is a shape that does not add up
        assert variant in ("fcn8s-same", "fcn8s-lite") and "must match the size" in str(exc)
    else:
        assert not equal(found, wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_comparison_sees_upscore_axes_swapped(
    variant: str, make_model: Callable[..., FCN8s], reference: ModuleType
) -> None:
    model, frame = make_model(variant, learned_upscore=True), frame_of(39, 43)
    wanted = expected(reference, model, frame)
    swap_upscore_axes(model)
    assert not equal(answer(model, frame), wanted)


def test_losing_ceil_mode_shows_in_the_numbers_alone(make_model: Callable[..., FCN8s]) -> None:
    model, frame = make_model("fcn8s"), frame_of(39, 43)
    before = answer(model, frame)
    set_ceil_mode(model)
    after = answer(model, frame)
    assert after.shape == before.shape
    assert not equal(after, before)


def test_crop_offsets_follow_from_the_geometry(reference: ModuleType) -> None:
    assert reference.crop_offsets(padding=100) == (5, 9, 31)
    for name in ("fcn8s", "fcn8s-atonce"):
        assert VARIANTS[name].crops == (5, 9, 31)


@pytest.mark.parametrize("height", [1, 2, 26, 27, 31, 32, 33, 58, 59, 97, 224, 375])
def test_score_rows_and_upscored_rows_are_the_papers(height: int, make_model: Callable[..., FCN8s]) -> None:
    model = make_model("fcn8s", width=1, fc_channels=1, num_classes=2)
    with torch.inference_mode():
        pool3, pool4, fc7 = model.trunk(torch.zeros(1, 3, height, 1))
        rows = model.upscore8(model.fuse(pool3, pool4, fc7)).shape[2]
    assert fc7.shape[2] == -(-(height + 198) // 32) - 6
    assert rows == 32 * fc7.shape[2] + 56
    assert rows >= height + 31, "the final crop stays inside"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frame_is_answered_alike_alone_and_in_a_batch(
    variant: str, make_model: Callable[..., FCN8s]
) -> None:
    model = make_model(variant)
    frames = np.stack([frame_of(29, 37, seed) for seed in range(3)])
    together = answers(model.double(), frames)
    for frame, found in zip(frames, together, strict=True):
        assert equal(found, answer(model, frame), 1e-12)
    assert not equal(together[0], together[1])


def test_dropout_works_in_training_alone(make_model: Callable[..., FCN8s]) -> None:
    model, frame = make_model("fcn8s-same", fc_channels=16), frame_of(40, 40)
    assert np.array_equal(answer(model, frame), answer(model, frame))
    model.train()
    torch.manual_seed(0)
    assert not equal(answer(model, frame), answer(model, frame))
    assert model.dropout.p == 0.5


def test_the_papers_network_has_the_papers_layers() -> None:
    with torch.device("meta"):
        state = FCN8s(21).state_dict()
    wanted = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    wanted |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()}
    wanted |= UPSCORE_SHAPES
    assert {name: tuple(value.shape) for name, value in state.items()} == wanted
    assert len(state) == 39
    assert sum(value.numel() for value in state.values()) == 134_489_759


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_same_keys(variant: str) -> None:
    with torch.device("meta"):
        state = FCN8s(21, variant).state_dict()
    wanted = {f"{name}.{kind}" for name in SHAPES for kind in ("weight", "bias")} | set(UPSCORE_SHAPES)
    if "lecture" in variant:
        wanted |= {key.replace("weight", "bias") for key in UPSCORE_SHAPES}
    assert set(state) == wanted


def test_the_lectures_network_has_the_lectures_layers() -> None:
    with torch.device("meta"):
        model = FCN8s(12, "fcn8s-lecture")
    assert (model.size_multiple, model.learned_upscore) == (32, True)
    assert model.architecture.options["learned_upscore"] is True
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["fc6.weight"] == (4096, 512, 1, 1)
    assert (shapes["upscore2.bias"], shapes["upscore_pool4.bias"], shapes["upscore8.bias"]) == ((12,),) * 3
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_lite_is_a_quarter_of_the_channels() -> None:
    with torch.device("meta"):
        state = FCN8s(11, "fcn8s-lite").state_dict()
    assert state["conv1_1.weight"].shape == (16, 3, 3, 3)
    assert state["conv5_3.weight"].shape == (128, 128, 3, 3)
    assert state["fc6.weight"].shape == (512, 128, 7, 7)
    assert state["upscore8.weight"].shape == (11, 11, 16, 16)


@pytest.mark.parametrize("learned_upscore", [False, True])
def test_upscores_learn_only_where_asked_to(learned_upscore: bool) -> None:
    with torch.device("meta"):
        model = FCN8s(4, width=1, fc_channels=1, learned_upscore=learned_upscore)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (learned_upscore or not name.startswith("upscore")), name


@pytest.mark.parametrize("size", [4, 16])
def test_bilinear_kernel_is_the_papers_filter(size: int, reference: ModuleType) -> None:
    kernel = bilinear_kernel(3, size)
    assert kernel.shape == (3, 3, size, size) and kernel.dtype == torch.float32
    for i in range(3):
        for j in range(3):
            wanted = reference.bilinear_kernel(size) if i == j else np.zeros((size, size))
            assert np.array_equal(kernel[i, j].numpy(), wanted)


def test_bilinear_kernel_of_two_is_known_by_heart() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(1, 4)[0, 0], torch.outer(line, line))


@pytest.mark.parametrize("stride", [2, 8])
def test_learned_upscore_starts_as_the_resize_but_for_the_border(stride: int) -> None:
    scores = torch.from_numpy(frame_of(7, 6)[None])
    learned = Upscore(3, stride, padded=True, resize=False).double()
    fixed = Upscore(3, stride, padded=True, resize=True).double()
    with torch.inference_mode():
        found, wanted = learned(scores), fixed(scores)
    assert found.shape == wanted.shape == (1, 3, 7 * stride, 6 * stride)
    inside = slice(stride // 2, -(stride // 2))
    torch.testing.assert_close(found[..., inside, inside], wanted[..., inside, inside])
    assert not torch.allclose(found[..., 0, :], wanted[..., 0, :])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "2 to 255.*not 1"),
        ({"num_classes": 0}, "2 to 255.*not 0"),
        ({"num_classes": 256}, "2 to 255.*not 256"),
        ({"width": 0}, "at least 1.*0"),
        ({"fc_channels": 0}, "at least 1.*0"),
        ({"width": -3}, "at least 1.*-3"),
        ({"variant": "fcn16s"}, "'fcn16s'.*fcn8s, fcn8s-atonce, fcn8s-same, fcn8s-lite"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FCN8s(**arguments)


@pytest.mark.parametrize("num_classes", [2, 255])
def test_two_to_255_classes(num_classes: int) -> None:
    model = FCN8s(num_classes, "fcn8s-same", width=1, fc_channels=1).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 5, 4)).shape == (1, num_classes, 5, 4)


def test_variants_are_found_by_their_exact_name() -> None:
    for name in (
        "fcn8s",
        "fcn8s-atonce",
        "fcn8s-same",
        "fcn8s-lite",
        "fcn8s-lecture",
        "fcn8s-lecture-norelu",
    ):
        assert find_variant(name).name == name
    with pytest.raises(ModelError, match="unknown variant"):
        find_variant("FCN8s")
