"""What a network gives is understood from its graph and from one run."""

from __future__ import annotations

from pathlib import Path

import foreign_files as exporters
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.export.answer import find_source, resize_bilinear
from fcn_deploy.export.foreign import Reading, open_network
from fcn_deploy.export.graph.opset import needed_onnxruntime
from fcn_deploy.export.original import Preparation, read_original

PREPARED = Preparation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255, "rgb")


@settings(max_examples=30, deadline=None)
@given(
    source=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    aligned=st.booleans(),
)
def test_bilinear_is_pytorch_s(source: tuple[int, int], size: tuple[int, int], aligned: bool) -> None:
    torch = pytest.importorskip("torch")
    planes = np.random.default_rng(0).normal(size=(2, 3, *source)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(planes), size, mode="bilinear", align_corners=aligned
    )
    np.testing.assert_allclose(resize_bilinear(planes, size, aligned), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("export", "options", "kind", "channels", "probabilities"),
    [
        ("torchvision", {}, "scores", 5, False),
        ("mmdeploy", {}, "scores", 5, False),
        ("mmdeploy_binary", {}, "map", 2, False),
        ("ultralytics", {}, "scores", 5, False),
        ("paddleseg", {}, "scores", 5, False),
        ("smp", {"size_multiple": 4}, "channel", 1, False),
        ("small_labels", {"logits_stride": 4}, "map", 5, False),
        ("keras", {}, "scores", 5, True),
    ],
)
def test_each_exporter_s_answer(
    tmp_path: Path, export: str, options: dict[str, int], kind: str, channels: int, probabilities: bool
) -> None:
    original = read_original(getattr(exporters, export)(tmp_path / "original.onnx"))
    with open_network(original, Reading(PREPARED, "bgr", **options)) as network:
        answer = network.answer
    assert (answer.kind, answer.channels, answer.probabilities) == (kind, channels, probabilities)


def test_a_sigmoid_at_the_end_gives_probabilities(tmp_path: Path) -> None:
    graph = exporters.Graph()
    x = graph.conv("input", "score", (1, 3, 1, 1))
    x = graph.add("Sigmoid", [x], "share")
    graph.add("Squeeze", [x, graph.integers("axis", 1)], "output")
    frame, share = exporters.FRAMES, (1, ["batch", "height", "width"])
    path = graph.save(tmp_path / "o.onnx", {"input": frame}, {"output": share}, opset=17, ir=8, producer="x")
    original = read_original(path)
    with open_network(original, Reading(PREPARED, "bgr", threshold=0.7)) as network:
        answer, expected = network.answer, network.expected(np.full((1, 8, 8, 3), 200, np.uint8))
    assert (answer.kind, answer.axis, answer.probabilities, answer.bound) == ("channel", None, True, 0.7)
    assert expected.logits is not None
    np.testing.assert_allclose(expected.logits[:, 0], 0.7, rtol=1e-6)


def test_logits_move_with_the_last_bit_of_the_frames(tmp_path: Path) -> None:
    original = read_original(exporters.torchvision(tmp_path / "original.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    with open_network(original, Reading(PREPARED, "bgr")) as network:
        expected = network.expected(images).logits
        again = network.expected(images).logits
        moved = list(network.neighbours(images))
    assert expected is not None
    assert again is not None
    np.testing.assert_array_equal(expected, again)
    largest = np.abs(expected).max()
    moves = [float(np.abs(values - expected).max() / largest) for values in moved]
    assert len(set(moves)) > 1
    assert all(0 < move < 1e-5 for move in moves)


def test_the_source_is_what_the_argmax_compares(tmp_path: Path) -> None:
    original = read_original(exporters.mmdeploy(tmp_path / "original.onnx"))
    source = find_source(original, "output")
    assert (source.scores, source.scores_axis) == ("resized", 1)
    assert source.from_integers


def test_which_onnx_runtime_opens_a_graph() -> None:
    onnx = pytest.importorskip("onnx")

    def graph(opset: int, ir: int) -> object:
        empty = onnx.helper.make_graph([], "g", [], [])
        return onnx.helper.make_model(
            empty, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir
        )

    found = {
        pair: needed_onnxruntime(graph(*pair)) for pair in ((13, 7), (20, 10), (22, 10), (23, 11), (99, 9))
    }
    assert found == {
        (13, 7): "1.12",
        (20, 10): "1.18",
        (22, 10): "1.21",
        (23, 11): "1.23",
        (99, 9): "newer than 1.25",
    }
