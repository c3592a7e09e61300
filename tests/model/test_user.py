"""A user's module as a network: what it may return, which frames it takes, and what is refused."""

from __future__ import annotations

import copy
import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fcn_deploy.errors import FcnDeployError, ModelError, UsageError
from fcn_deploy.model.user import ModuleOptions, UserNetwork, own_copy, smallest_side
from fcn_deploy.spec import Architecture


def network(module: nn.Module, **options: Any) -> UserNetwork:
    return UserNetwork(module, ModuleOptions(**options))


def logits_of(module: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(frames)


@pytest.mark.parametrize("form", ["tuple", "list", "dict"])
def test_the_logits_are_found_in_what_it_returns(nets, form: str) -> None:
    frames = torch.rand(2, 3, 11, 13)
    found = logits_of(network(nets.Returning(form)), frames)
    assert torch.equal(found, logits_of(nets.Plain().eval(), frames))


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (
            "dict without out",
            "Returning returns a mapping with logits, loss; logits are expected under 'out'",
        ),
        ("empty tuple", "Returning returns tuple; a tensor of logits is expected"),
        ("list of dicts", "Returning returns dict; a tensor"),
        ("nothing", "Returning returns NoneType"),
        (
            "five axes",
            r"float32 of shape \[1, 1, 4, 192, 192\]; logits are floating point \[N, classes, H, W\]",
        ),
        ("three axes", r"float32 of shape \[1, 192, 192\]"),
        ("labels", r"returns int64 of shape \[1, 1, 192, 192\]"),
        ("no channels", "gives 0 channels; 1 to 255 are possible"),
    ],
)
def test_something_else_than_logits_is_named(nets, form: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        network(nets.Returning(form))


def test_more_classes_than_labels(nets) -> None:
    assert network(nets.Plain(255)).num_classes == 255
    with pytest.raises(ModelError, match="Plain gives 256 channels"):
        network(nets.Plain(256))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size_multiple": 0}, "size_multiple must be at least 1, not 0"),
        ({"logits_stride": 1}, "logits_stride must be at least 2, not 1; leave it out"),
        ({"align_corners": True}, "give logits_stride too"),
        ({"threshold": 0.0}, "between 0 and 1, not 0.0"),
        ({"threshold": 1}, "between 0 and 1"),
        ({"threshold": float("nan")}, "between 0 and 1"),
        ({"threshold": "0.5"}, "between 0 and 1, not '0.5'"),
        ({"threshold": True}, "between 0 and 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        ModuleOptions(**options)


def test_a_threshold_is_for_one_channel(nets) -> None:
    with pytest.raises(UsageError, match="threshold is for one channel of logits, and Plain gives 4"):
        network(nets.Plain(), threshold=0.4)
    assert network(nets.Plain(1), threshold=Fraction(1, 4)).threshold == 0.25


# Which frames it takes


@pytest.mark.parametrize(
    ("levels", "multiple"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64)], ids="levels {}".format
)
def test_the_size_multiple_that_it_needs_is_named(nets, levels: int, multiple: int) -> None:
    module = nets.UNet(levels)
    with pytest.raises(UsageError, match=rf"UNet does not give logits .*; give --size-multiple {multiple},"):
        network(module)
    assert network(module, size_multiple=multiple).size_multiple == multiple
    assert network(module, size_multiple=3 * multiple).size_multiple == 3 * multiple


@pytest.mark.parametrize("stated", [2, 8, 16, 24, 48 - 8])
def test_a_size_multiple_that_is_not_enough_is_refused(nets, stated: int) -> None:
    """192 rows, with which it is tried first, are a multiple of most of them and of 32."""
    with pytest.raises(UsageError, match="give --size-multiple 32, which pads them in the graph"):
        network(nets.UNet(5), size_multiple=stated)


@pytest.mark.parametrize("side", [6, 7, 10, 14, 20, 28, 33])
def test_multiples_that_are_no_powers_of_two(nets, side: int) -> None:
    with pytest.raises(UsageError, match=f"give --size-multiple {side},"):
        network(nets.Patches(side))
    assert network(nets.Patches(side), size_multiple=side).size_multiple == side


def test_patches_without_their_resize(nets) -> None:
    """The second call says what is missing in the first."""
    with pytest.raises(UsageError, match=r"AssertionError: whole patches only\); give --size-multiple 14"):
        network(nets.Patches(resized=False))
    with pytest.raises(UsageError, match="give --logits-stride 14"):
        network(nets.Patches(resized=False), size_multiple=14)
    assert network(nets.Patches(resized=False), size_multiple=14, logits_stride=14).num_classes == 3


@pytest.mark.parametrize(
    ("module", "options", "told"),
    [
        ("Strided(4)", {}, "logits of 48x48 for a frame of 192x192; give --logits-stride 4"),
        (
            "Strided(4)",
            {"logits_stride": 8},
            "of 48x48, not of 24x24, for a frame .*; give --logits-stride 4",
        ),
        ("Plain()", {"logits_stride": 8}, "192x192, not of 24x24, for .*; leave --logits-stride out"),
        ("Valid()", {}, "190x190 for a frame of 192x192; resize or crop them to the frame in the module"),
        ("Valid()", {"logits_stride": 2}, "190x190, not of 96x96, .*; resize or crop them"),
    ],
)
def test_logits_of_another_size_than_stated(nets, module: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        network(eval(f"nets.{module}"), **options)


def test_one_size_only(nets) -> None:
    told = r"Fixed fails on a frame of 192x192 \(AssertionError: 60x80 only\).*one size only.*fcn-deploy wrap"
    with pytest.raises(ModelError, match=told):
        network(nets.Fixed())


def test_a_module_that_is_none(nets) -> None:
    with pytest.raises(
        ModelError, match=r"Linear fails on a frame .*a module must take float \[N, 3, H, W\]"
    ):
        network(nn.Linear(3, 4))
    with pytest.raises(ModelError, match="Conv2d fails on a frame of 192x192"):
        network(nn.Conv2d(4, 4, 1))


@pytest.mark.parametrize(
    ("module", "options", "least"),
    [
        ("Plain()", {}, 1),
        ("Reflected()", {}, 16),
        ("Spread()", {}, 1),
        ("UNet(3)", {"size_multiple": 8}, 1),
        ("Weightless()", {}, 1),
    ],
)
def test_the_smallest_frame(nets, module: str, options: dict[str, Any], least: int) -> None:
    assert network(eval(f"nets.{module}"), **options).smallest() == least


def test_a_frame_whose_logits_are_no_numbers_is_too_small() -> None:
    class Spread(nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames / (1 + frames.std(dim=(2, 3), keepdim=True))

    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert smallest_side(network(Spread())) == 2


# Logits that are smaller than the frame


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("align", [False, True], ids=["half pixel", "aligned"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_small_logits_are_resized_as_interpolate_does(nets, stride: int, align: bool, multiple: int) -> None:
    module = nets.Strided(stride).eval()
    found = network(module, logits_stride=stride, align_corners=align, size_multiple=multiple)
    frames = torch.rand(2, 3, 24, 40) if multiple == 8 else torch.rand(2, 3, 19, 35)
    small = logits_of(module, frames)
    expected = F.interpolate(small, size=frames.shape[2:], mode="bilinear", align_corners=align)
    torch.testing.assert_close(logits_of(found, frames), expected)
    other = F.interpolate(small, size=frames.shape[2:], mode="bilinear", align_corners=not align)
    assert not torch.allclose(expected, other, atol=1e-3), "the two differ"


# The caller's module


def state_of(module: nn.Module) -> dict[str, Any]:
    modes = {name: part.training for name, part in module.named_modules()}
    return {"modes": modes, **copy.deepcopy(module.state_dict())}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_precision_is_taken_and_left_alone(nets, dtype: torch.dtype) -> None:
    module = nets.Plain().to(dtype)
    found = network(module)
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    assert {p.dtype for p in module.parameters()} == {dtype}
    torch.testing.assert_close(found.module.stem.weight, module.stem.weight.float())


def test_a_module_in_training_mode_is_left_in_it_and_its_statistics_too(nets) -> None:
    module = nets.Plain().train()
    module.drop.eval()  # some freeze a part
    before = state_of(module)
    found = network(module)
    frames = torch.rand(1, 3, 20, 20)
    assert torch.equal(logits_of(found, frames), logits_of(found, frames)), "no dropout"
    after = state_of(module)
    assert after.pop("modes") == before.pop("modes")
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(part.training for part in found.module.modules())


def test_later_training_does_not_change_the_network(nets) -> None:
    module = nets.Plain()
    found = network(module)
    expected = found.module.stem.weight.clone()
    with torch.no_grad():
        module.stem.weight.zero_()
    assert torch.equal(found.module.stem.weight, expected)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda m: nn.DataParallel(torch.compile(m))],
    ids=["DataParallel", "compiled", "both"],
)
def test_what_training_put_around_it_is_taken_off(nets, wrap) -> None:
    found = network(wrap(nets.Plain()))
    assert found.name == "Plain" and "stem.weight" in found.module.state_dict()


def test_a_module_without_weights(nets) -> None:
    assert network(nets.Weightless()).num_classes == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(nets, value: float) -> None:
    module = nets.Plain()
    module.norm.running_mean[1] = value
    with pytest.raises(ModelError, match=r"norm\.running_mean of Plain holds NaN or infinite values"):
        network(module)


def test_weights_that_are_not_there_yet(nets) -> None:
    with pytest.raises(ModelError, match=r"stem\.weight of Plain has no numbers yet"):
        network(nets.Plain().to("meta"))
    with pytest.raises(ModelError, match=r"weight of LazyConv2d has no numbers yet"):
        network(nn.LazyConv2d(3, 1))


def test_torchscript_is_refused_in_words(nets) -> None:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        script = torch.jit.trace(nets.Plain().eval(), torch.rand(1, 3, 8, 8))
    with pytest.raises(ModelError, match="is a TorchScript module; give the Python module"):
        own_copy(script)


def test_a_module_that_cannot_be_copied(nets) -> None:
    module = nets.Plain()
    module.cached = module.stem.weight * 2  # as old weight_norm keeps it
    with pytest.raises(ModelError, match=r"Plain cannot be copied \(RuntimeError: .*load its state_dict"):
        own_copy(module)


def test_its_description_is_what_was_stated(nets) -> None:
    found = network(
        nets.Strided(4), logits_stride=4, align_corners=True, channel_order="bgr", factory="a.py:f"
    )
    options = {"channel_order": "bgr", "factory": "a.py:f", "logits_stride": 4, "align_corners": True}
    assert found.architecture == Architecture("Strided", options)
    assert network(nets.Plain()).architecture == Architecture("Plain", {"channel_order": "rgb"})


def test_every_refusal_is_one_of_ours(nets) -> None:
    class Rude(nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            raise KeyError("out of order\nand more")

    with pytest.raises(FcnDeployError) as caught:
        network(Rude())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.gpu
def test_a_module_on_a_gpu_is_copied_to_the_cpu_and_stays_there(nets) -> None:
    module = nets.Plain().cuda()
    found = network(module)
    assert {weight.device.type for weight in found.parameters()} == {"cpu"}
    assert {weight.device.type for weight in module.parameters()} == {"cuda"}
