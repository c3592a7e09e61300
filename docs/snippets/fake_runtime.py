import numpy as np

from fcn_deploy import Segmenter
from fcn_deploy.testing import FakeRuntime


def way_is_free(segmenter: Segmenter, frame: np.ndarray) -> bool:
    """The code under test: is most of the lower half of the frame road?"""
    labels = segmenter.infer(frame).labels[0]
    road = segmenter.spec.classes.index("road")
    return bool((labels[len(labels) // 2 :] == road).mean() > 0.5)


def car_ahead(frames: np.ndarray) -> np.ndarray:
    """A rule: road below, and a car (class 8) over the middle of it."""
    labels = np.full(frames.shape[:3], 3, np.uint8)
    labels[:, 60:, 20:140] = 8
    return labels


frame = np.zeros((120, 160, 3), np.uint8)
assert way_is_free(Segmenter(FakeRuntime(3)), frame)  # road everywhere
assert not way_is_free(Segmenter(FakeRuntime(car_ahead)), frame)
