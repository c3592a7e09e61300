"""Modules as ONNX files: one that is padded, resized and of one channel, and an ill-conditioned one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fcn_deploy import export_model
from fcn_deploy.errors import ParityError
from fcn_deploy.export.onnx import trace
from fcn_deploy.export.parity import TOLERANCE, check_parity
from fcn_deploy.export.reference import reference_of
from fcn_deploy.model.deploy import DeployModel, reference_logits
from fcn_deploy.model.user import ModuleOptions, UserNetwork
from fcn_deploy.runtimes.registry import load
from fcn_deploy.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("few_sizes")
ALL = ("labels", "confidence", "logits")


def test_one_padded_channel_at_stride_4(nets, tmp_path: Path) -> None:
    """Padding, a resize with aligned corners and a threshold in one graph."""
    module = nets.Strided(4, channels=1)
    options: dict[str, Any] = {
        "size_multiple": 8,
        "logits_stride": 4,
        "align_corners": True,
        "threshold": 0.45,
    }
    result = export_model(module, tmp_path / "m.onnx", **options, outputs=ALL, color_order="rgb")
    network = UserNetwork(module, ModuleOptions(**options))
    with load(result.path, device="cpu", backend="onnxruntime") as segmenter:
        for shape in ((1, 1, 1), (2, 37, 50), (1, 64, 96)):
            frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
            answer = segmenter.infer(frames)
            logits = reference_logits(network, result.spec, frames)
            share = 1 / (1 + np.exp(-logits[:, 1]))
            sure = np.abs(share - 0.45) > 1e-4
            np.testing.assert_array_equal(answer.labels[sure], (share > 0.45)[sure])
            np.testing.assert_allclose(
                answer.confidence, np.where(answer.labels == 1, share, 1 - share), atol=1e-4
            )
    assert (result.spec.threshold, result.spec.size_multiple) == (0.45, 8)


@pytest.fixture(scope="module")
def amplified(nets) -> tuple[onnx.ModelProto, UserNetwork, ModelSpec]:
    """A graph whose fp32 is about 1e-3 from float64."""
    network = UserNetwork(nets.Amplified(), ModuleOptions())
    spec = ModelSpec(tuple("abcd"), network.architecture)
    return trace(DeployModel(network, spec).eval()), network, spec


def planted(graph: onnx.ModelProto, error: float) -> onnx.ModelProto:
    """The same graph with one wrong bias."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    bias = next(t for t in changed.graph.initializer if t.name.endswith("score.bias"))
    values = numpy_helper.to_array(bias) + np.array([error, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    return changed


def test_a_network_that_makes_much_of_each_rounding_passes(amplified) -> None:
    graph, network, spec = amplified
    evidence = check_parity(graph, reference_of(network, spec), spec)
    worst = max(evidence["sizes"], key=lambda record: record["relative_error"])
    assert worst["relative_error"] > TOLERANCE, "or this test shows nothing"
    assert worst["reference_from_float64"] > 1e-4


@pytest.mark.parametrize("error", [1e-3, 1e-2])
def test_a_wrong_graph_of_it_is_refused_all_the_same(amplified, error: float) -> None:
    graph, network, spec = amplified
    with pytest.raises(ParityError, match=r"from the network in float64, and the network in fp32 is"):
        check_parity(planted(graph, error), reference_of(network, spec), spec)
