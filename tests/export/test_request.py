"""What may be stated together about an export; checked before PyTorch is imported."""

from __future__ import annotations

from typing import Any

import pytest

from fcn_deploy.errors import UsageError
from fcn_deploy.export.request import FACTORY_WEIGHTS, Request
from fcn_deploy.spec import Architecture, ModelSpec

SPEC = ModelSpec(("a", "b"), Architecture("anything"))


def request(checkpoint: Any = "w.pth", **changes: Any) -> Request:
    fields: dict[str, Any] = {
        **dict.fromkeys(("model", "key", "trained_on", "num_classes", "classes", "spec")),
        "fcn8s": {"variant": None, "learned_upscore": None},
        "random": {"width": None, "fc_channels": None, "seed": None},
        "module": {"size_multiple": None, "logits_stride": None, "align_corners": None, "threshold": None},
    }
    return Request(checkpoint=checkpoint, **{**fields, **changes})


MEMORY = object()


@pytest.mark.parametrize(
    "fine",
    [
        request(),
        request("bundled"),
        request("random", random={"width": 4, "fc_channels": None, "seed": 0}),
        request(MEMORY, trained_on="rgb"),
        request(FACTORY_WEIGHTS, model="a.py:f"),
        request(model=MEMORY, key="ema", trained_on="bgr", num_classes=3),
        request(MEMORY, spec=SPEC),
    ],
)
def test_what_goes_together(fine: Request) -> None:
    fine.check()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (request(trained_on="gbr"), "trained_on must be bgr or rgb, not 'gbr'"),
        (request(FACTORY_WEIGHTS), "give a checkpoint, or a model that has its own weights"),
        (request("random", model="a.py:f"), "--model is for checkpoint files; leave it out"),
        (request("bundled", model="a.py:f"), "bundled weights are those of fcn8s-lite, and --model names"),
        (request("random", trained_on="rgb"), "--trained-on is for checkpoint files"),
        (request("random", key="ema"), "--key chooses weights in a checkpoint file"),
        (request(MEMORY, key="ema"), "--key chooses weights in a checkpoint file"),
        (request(MEMORY, model="a.py:f"), "a module was given twice"),
        (request(MEMORY, num_classes=3), "--num-classes is for checkpoint files; a network in memory has"),
        (request(MEMORY, fcn8s={"variant": "fcn8s"}), "--variant is for checkpoint files"),
        (request(model="a.py:f", fcn8s={"variant": "fcn8s"}), "--variant is for FCN-8s, and --model names"),
        (request(model="a.py:f", fcn8s={"learned_upscore": True}), "--learned-upscore is for FCN-8s"),
        (request(random={"fc_channels": 4}), "--fc-channels is for --weights random"),
        (request(MEMORY, spec={"classes": ["a", "b"]}), "spec is a ModelSpec, not a dict"),
    ],
)
def test_what_does_not(wrong: Request, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        wrong.check()


@pytest.mark.parametrize(
    ("stated", "option"),
    [
        ({"module": {"size_multiple": 32}}, "--size-multiple"),
        ({"module": {"align_corners": True}}, "--align-corners"),
        ({"module": {"threshold": 0.5}}, "--threshold"),
        ({"spec": SPEC}, "--spec"),
    ],
)
def test_what_only_a_module_needs(stated: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} is for modules of your own, and this is fcn8s"):
        request(**stated).refuse_module_options("fcn8s")


def test_nothing_stated_is_nothing_refused() -> None:
    request().refuse_module_options("fcn8s")
