"""Evaluation over a dataset: figures, problems, the worst frames, and what stays in memory."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest

from fcn_deploy import evaluation
from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.data.folders import LabelledFolder
from fcn_deploy.data.frames import Frame
from fcn_deploy.data.images import write_labels
from fcn_deploy.errors import InferenceError, SourceError, UsageError
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
    """Frames whose blue channel, which the reader returns, is the truth but for so many ``flaws``.

    ``broken`` frames cannot be read. Images are counted while they are in memory, and not kept.
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


def test_perfect_labels_give_one():
    found = evaluate(reader(), Painted([0, 0]))
    assert (found.mean_iu, found.pixel_accuracy, found.mean_accuracy, found.fw_iu) == (1, 1, 1, 1)
    assert set(found.iu_by_class.values()) == {1.0}
    assert (found.artefact, found.backend, found.frames, found.problems) == ("", "fake", 2, ())


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
    found = evaluate(FakeRuntime(rule=3), Painted(labels=np.full((4, 10), 3, np.uint8)))
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
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
    assert (found.worst[0].predicted == found.worst[0].frame.image[..., 0]).all()


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
    evaluate(reader(), Painted([0, 0, 0], broken=[1]), progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]


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
    assert found.warnings == ()


@pytest.fixture
def opened(monkeypatch):
    """Each call of ``load``: its arguments, and the segmenter that it gave."""
    calls = []

    def load(*arguments, **options):
        calls.append((arguments, options, Segmenter(reader())))
        return calls[-1][-1]

    monkeypatch.setattr(evaluation, "load", load)
    return calls


def is_closed(segmenter):
    with pytest.raises(InferenceError, match="closed"):
        segmenter.infer(np.zeros((1, 2, 2, 3), np.uint8))
    return True


@pytest.mark.parametrize("path", ["model.engine", Path("model.engine")])
def test_a_file_is_opened_scored_and_closed(opened, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(path).write_bytes(b"an engine")
    found = evaluate(path, Painted([0]), backend="tensorrt", device="cuda:1", threads=2, simulate_fp16=True)
    assert (found.artefact, found.backend, found.mean_iu) == ("model.engine", "fake", 1)
    ((arguments, options, segmenter),) = opened
    assert arguments == (path,)
    assert options == {"backend": "tensorrt", "device": "cuda:1", "threads": 2}
    assert is_closed(segmenter)


def test_a_file_is_closed_when_nothing_can_be_scored(opened):
    with pytest.raises(SourceError, match="not one of 1 frames"):
        evaluate("model.onnx", Painted([0], broken=[0]))
    assert is_closed(opened[0][-1])


def test_a_model_that_was_open_stays_open():
    with Segmenter(reader()) as segmenter:
        evaluate(segmenter, Painted([0]))
        evaluate(segmenter, Painted([0]))


@pytest.mark.parametrize(
    "options", [{"backend": "onnxruntime"}, {"device": "cpu"}, {"threads": 1}, {"simulate_fp16": True}]
)
def test_options_are_for_files(options):
    with pytest.raises(UsageError, match="already open"):
        evaluate(reader(), Painted([0]), **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ignore_label": 256}, "ignore_label must be from 0 to 255, not 256"),
        ({"ignore_label": -1}, "ignore_label must be from 0 to 255, not -1"),
        ({"keep_worst": -1}, "keep_worst must be 0 or more, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        evaluate(reader(), Painted([0]), **options)


@pytest.fixture
def folder(tmp_path):
    """One frame that the reader labels without a mistake, and one label without an image."""
    image_module = pytest.importorskip("PIL.Image")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    frame = Painted()[0]
    image_module.fromarray(frame.image).save(tmp_path / "images" / "0.png")
    for name in ("0", "alone"):
        write_labels(tmp_path / "labels" / f"{name}.png", frame.labels, CAMVID_PALETTE)
    return tmp_path


def test_a_folder_is_read_in_the_models_colour_order(folder):
    image_module = pytest.importorskip("PIL.Image")
    image = np.asarray(image_module.open(folder / "images" / "0.png")).copy()
    image[..., 0] += 100  # the label is in blue, the last channel of the file
    image_module.fromarray(image).save(folder / "images" / "0.png")
    last = FakeRuntime(lambda frames: frames[..., 2], camvid_spec(color_order="rgb"))
    for model in (reader(), last):
        assert evaluate(model, str(folder)).mean_iu == 1


def test_frames_in_another_colour_order_are_refused(folder):
    rgb = reader(camvid_spec(color_order="rgb"))
    with pytest.raises(UsageError, match="frames are in bgr order and the model expects rgb"):
        evaluate(rgb, LabelledFolder(folder))


def test_a_label_without_an_image_is_a_warning(folder):
    found = evaluate(reader(), folder)
    assert found.warnings == (f"{folder / 'labels' / 'alone.png'} has no image",)
    assert found.problems == ()


def test_it_is_shown_with_its_metrics_and_problems():
    found = evaluate(reader(), Painted([0, 0], broken=[1]))
    shown = dict(found.summary())
    assert (shown["frames"], shown["mean IU"], shown["pixel accuracy"]) == ("1", "1.0000", "1.0000")
    assert shown["IU by class"].startswith("sky 1.0000, ")
    assert shown["not scored"] == "frame1.png is cut off"
    assert repr(found).splitlines()[0] == "Evaluation"
    nothing = evaluate(FakeRuntime(rule=3), Painted(labels=np.full((4, 10), 3, np.uint8)))
    assert "sky -, " in repr(nothing) and "not scored" not in repr(nothing)


def test_pictures_show_the_confusion_and_the_worst_frames():
    pytest.importorskip("PIL")
    found = evaluate(reader(), Painted([2, 30]), keep_worst=1)
    assert found.draw_confusion().ndim == 3
    worst = found.draw_worst()
    frame = found.worst[0].frame
    assert (worst[-4:, :10] == frame.image[..., ::-1]).all()
    palette = np.array(CAMVID_PALETTE, np.uint8)
    assert (worst[-4:, 10:20] == palette[frame.labels]).all()
    assert (worst[-4:, 20:30] == palette[found.worst[0].predicted]).all()
    with pytest.raises(SourceError, match="no frames to draw"):
        evaluate(reader(), Painted([2])).draw_worst()
