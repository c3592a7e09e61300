"""Evaluation over a dataset: figures, problems, the worst frames, and what stays in memory."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest

from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.data.frames import Frame
from fcn_deploy.data.images import write_labels
from fcn_deploy.errors import InferenceError, SourceError
from fcn_deploy.evaluation import evaluate
from fcn_deploy.metrics import ConfusionMatrix
from fcn_deploy.runtimes.segmenter import Segmenter
from fcn_deploy.spec import Architecture, ModelSpec
from fcn_deploy.testing import FakeRuntime

KEYS = [
    *("artefact", "backend", "mean_iu", "pixel_accuracy", "mean_accuracy", "fw_iu"),
    *("iu_by_class", "frames", "problems"),
]


class Painted:
    """Frames whose blue channel is what the reader answers: the truth but for so many ``flaws``.

    ``broken`` frames cannot be read. What is made is watched, not kept.
    """

    def __init__(self, flaws=(0,), broken=(), labels=None, height=4):
        self.flaws, self.broken, self.labels, self.height = flaws, broken, labels, height
        self.alive: list[weakref.ref] = []
        self.most_alive = 0

    def __len__(self):
        return len(self.flaws)

    def __getitem__(self, index):
        self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self.alive))
        if index in self.broken:
            raise SourceError(f"frame{index}.png is cut off")
        truth = np.arange(self.height * 10, dtype=np.uint8).reshape(self.height, 10) % 11
        image = np.repeat(truth[..., None], 3, axis=-1)
        image.reshape(-1, 3)[: self.flaws[index]] = (image.reshape(-1, 3)[: self.flaws[index]] + 1) % 11
        self.alive.append(weakref.ref(image))
        return Frame(image, f"frame{index}.png", index, self.labels if self.labels is not None else truth)


def reader(spec=None):
    return FakeRuntime(lambda frames: frames[..., 0], spec)


def camvid_spec(**changes):
    return ModelSpec(
        classes=CAMVID_CLASSES, palette=CAMVID_PALETTE, architecture=Architecture("fcn8s-lite"), **changes
    )


def test_perfect_answers_give_one():
    found = evaluate(reader(), Painted([0, 0]), artefact="model.onnx")
    assert (found.mean_iu, found.pixel_accuracy, found.mean_accuracy, found.fw_iu) == (1, 1, 1, 1)
    assert set(found.iu_by_class.values()) == {1.0}
    assert (found.artefact, found.backend, found.frames, found.problems) == ("model.onnx", "fake", 2, ())


def test_figures_are_those_of_one_matrix_over_all_frames():
    dataset = Painted([0, 7, 40])
    found = evaluate(reader(), dataset)
    whole = ConfusionMatrix(11)
    for i in range(3):
        whole.update(dataset[i].labels, dataset[i].image[..., 0])
    assert (found.confusion.counts == whole.counts).all()
    assert found.mean_iu == whole.mean_iu
    assert 0 < found.mean_iu < 1


def test_a_segmenter_is_scored_as_its_runtime():
    with Segmenter(reader()) as segmenter:
        assert evaluate(segmenter, Painted([5])).to_dict() == evaluate(reader(), Painted([5])).to_dict()


def test_the_dict_is_json_with_exactly_these_keys():
    answer = evaluate(FakeRuntime(rule=3), Painted(labels=np.full((4, 10), 3, np.uint8)))
    written = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert list(written) == KEYS
    assert list(written["iu_by_class"]) == list(CAMVID_CLASSES)
    assert {name for name, iu in written["iu_by_class"].items() if iu is not None} == {"road"}


def test_unreadable_frames_are_listed_by_name_and_left_out():
    found = evaluate(reader(), Painted([0, 0, 0], broken=[1]))
    assert found.problems == ("frame1.png is cut off",)
    assert (found.frames, found.mean_iu) == (2, 1.0)
    assert found.confusion.counts.sum() == 2 * 40


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (
            Painted(labels=np.zeros((3, 10), np.uint8)),
            "frame0.png: labels are 3x10 and the prediction is 4x10",
        ),
        (Painted(labels=np.full((4, 10), 12, np.uint8)), "frame0.png: label 12 is out of range"),
        (Painted(height=9), "frame0.png: a frame of 9x10 is larger than this model's limit"),
    ],
)
def test_a_problem_names_its_frame(dataset, sentence):
    with pytest.raises(SourceError, match="not one of 1 frames could be scored") as caught:
        evaluate(reader(camvid_spec(max_height=8)), dataset)
    assert sentence in str(caught.value)


def test_a_frame_without_labels_is_a_problem():
    frames = [
        Frame(np.zeros((2, 2, 3), np.uint8), f"{i}.png", i, labels)
        for i, labels in enumerate([None, np.zeros((2, 2), np.uint8)])
    ]
    assert evaluate(reader(), frames).problems == ("0.png has no labels",)


def test_nothing_scored_is_an_error():
    with pytest.raises(SourceError, match=r"not one of 2 frames .* frame0.png is cut off"):
        evaluate(reader(), Painted([0, 0], broken=[0, 1]))
    with pytest.raises(SourceError, match="the folder is empty"):
        evaluate(reader(), [])
    with pytest.raises(SourceError, match="every pixel of 1 frames has an ignored label"):
        evaluate(reader(), Painted(labels=np.full((4, 10), 255, np.uint8)))


def test_a_failing_backend_ends_it():
    def fail(frames):
        raise RuntimeError("out of memory")

    with pytest.raises(InferenceError, match="out of memory"):
        evaluate(FakeRuntime(fail), Painted([0, 0]))


def test_the_ignore_label_is_the_specs_unless_given():
    labels = np.full((4, 10), 3, np.uint8)
    labels[0], labels[1] = 11, 5
    runtime = FakeRuntime(3, camvid_spec(ignore_label=11))
    assert evaluate(runtime, Painted(labels=labels)).pixel_accuracy == pytest.approx(20 / 30)
    with pytest.raises(SourceError, match="label 11 is out of range"):
        evaluate(runtime, Painted(labels=labels), ignore_label=5)
    labels[0] = 5
    assert evaluate(runtime, Painted(labels=labels), ignore_label=5).pixel_accuracy == 1.0


def test_the_worst_frames_come_lowest_first():
    found = evaluate(reader(), Painted([2, 30, 0, 12, 40]), keep_worst=3)
    assert [one.frame.index for one in found.worst] == [4, 1, 3]
    scores = [one.mean_iu for one in found.worst]
    assert scores == sorted(scores)
    assert (found.worst[0].answer == found.worst[0].frame.image[..., 0]).all()


def test_of_equally_bad_frames_the_first_are_kept_in_order():
    found = evaluate(reader(), Painted([5, 5, 5, 0]), keep_worst=2)
    assert [one.frame.index for one in found.worst] == [0, 1]


def test_a_frame_without_a_scored_pixel_is_not_among_the_worst():
    blank = Frame(np.zeros((2, 2, 3), np.uint8), "blank.png", 0, np.full((2, 2), 255, np.uint8))
    found = evaluate(reader(), [blank, Painted([3])[0]], keep_worst=5)
    assert [one.frame.name for one in found.worst] == ["frame0.png"]
    assert found.frames == 2


@pytest.mark.parametrize("keep", [0, 2])
def test_frames_are_let_go_before_the_next_is_read(keep):
    gc.disable()  # what only the collector frees is held too long
    try:
        dataset = Painted([1] * 12, broken=[5])
        found = evaluate(reader(), dataset, keep_worst=keep)
    finally:
        gc.enable()
    assert dataset.most_alive == keep
    assert found.frames == 11


def test_progress_is_called_once_a_frame_problems_included():
    calls = []
    evaluate(reader(), Painted([0, 0, 0], broken=[1]), progress=lambda: calls.append(1))
    assert len(calls) == 3


def test_a_labelled_folder_on_disk(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        frame = Painted()[0]
        image_module.fromarray(frame.image).save(tmp_path / "images" / f"{i}.png")
        write_labels(tmp_path / "labels" / f"{i}.png", frame.labels, CAMVID_PALETTE)
    (tmp_path / "images" / "2.png").write_bytes(b"")
    found = evaluate(reader(), LabelledFolder(tmp_path))
    assert (found.mean_iu, found.frames) == (1.0, 2)
    assert len(found.problems) == 1
    assert "2.png has no label" in found.problems[0]
