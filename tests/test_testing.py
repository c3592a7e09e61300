"""The fake checks frames as a real runtime does, and answers what the test wants."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fcn_deploy.errors import InferenceError, SourceError, UsageError
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.spec import ModelSpec
from fcn_deploy.testing import FakeRuntime

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)


def test_a_rule_sees_the_frames_and_answers() -> None:
    with FakeRuntime(lambda frames: frames[..., 0] % 11) as runtime:
        np.testing.assert_array_equal(runtime.infer(FRAMES).labels, FRAMES[..., 0] % 11)


def test_one_label_for_every_pixel() -> None:
    labels = FakeRuntime(4).infer(FRAMES).labels
    assert labels.dtype == np.uint8
    assert labels.shape == (2, 5, 6)
    assert (labels == 4).all()


def test_it_pretends_to_be_camvid_or_what_it_is_told() -> None:
    assert FakeRuntime(0).spec.classes[8] == "car"
    spec = ModelSpec(classes=("no", "yes"), variant="fcn8s", max_height=4)
    with pytest.raises(SourceError, match="limit of 4x"):
        FakeRuntime(1, spec).infer(FRAMES)


def test_a_delay_is_kept() -> None:
    start = time.perf_counter()
    FakeRuntime(0, delay=0.05).infer(FRAMES)
    assert time.perf_counter() - start >= 0.05


def test_a_rule_that_fails_is_a_backend_that_fails() -> None:
    def fail(frames: np.ndarray) -> np.ndarray:
        raise RuntimeError("the GPU fell off the bus")

    with Segmenter(FakeRuntime(fail)) as segmenter, pytest.raises(InferenceError, match="fell off the bus"):
        segmenter.infer(FRAMES)


def test_wrong_use_is_told() -> None:
    with pytest.raises(UsageError, match="from 0 to 10, not 11"):
        FakeRuntime(11)
    with pytest.raises(UsageError, match=r"0 seconds or more, not -1"):
        FakeRuntime(0, delay=-1)
